"""Networks that take one of several values, which one a value decides: no pair is fused that another call may part."""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X, where
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model
from acnet_pl.nn.surgery.choosing import chooses

Call = Callable[[Any], Any]


class Taps(Pair):
    """Collects what it computes in a list."""

    key: Any = 2

    def collect(self, x: Tensor) -> list[Any]:
        found = [x]
        found.append(self.conv(x))
        found.append(self.norm(found[-1]))
        return found

    def forward(self, x: Tensor) -> Any:
        return self.collect(x)[self.key]


class Indices(Taps):
    key = (2,)

    def forward(self, x: Tensor) -> Any:
        found = self.collect(x)
        return next(found[index] for index in self.key)


class ByName(Taps):
    key = "norm"

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return {"conv": y, "norm": self.norm(y)}[self.key]


class ByGetter(Pair):
    """A function in an attribute, which another replaces, takes one of two values."""

    def more(self) -> None:
        self.take = operator.itemgetter("norm")

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.take({"conv": y, "norm": self.norm(y)})


class Formatted(Taps):
    key: Any = 2

    def forward(self, x: Tensor) -> Any:
        found = {f"stage{index}": value for index, value in enumerate(self.collect(x))}
        return found.get(f"stage{self.key}")


class Settings(Taps):
    key = argparse.Namespace(index=2)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        found = (x, y, self.norm(y))
        return found[self.key.index]


class Given(Taps):
    """Not traceable; the example does not say which."""

    def forward(self, x: Tensor, key: str = "norm") -> Any:
        if not float(x.abs().max()) < 1e30:
            raise ValueError("not normalised")
        y = self.conv(x)
        return dict(conv=y, norm=self.norm(y))[key]  # noqa: C408


class Tapped(Pair):
    """A function in an attribute is given the value, and returns nothing."""

    def more(self) -> None:
        self.tap: Any = ignore

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        self.tap(y)
        return self.norm(y)


class Sliced(Taps):
    """Calls a part of a sequence, which is made on the spot."""

    key = 3

    def more(self) -> None:
        self.features = nn.Sequential(self.conv, self.norm, nn.ReLU())
        del self.conv, self.norm

    def forward(self, x: Tensor) -> Any:
        return self.features[: self.key](x)


def ignore(value: Any) -> None:
    pass


def key(value: Any) -> Call:
    def call(network: Any) -> Any:
        network.key = value
        return network(X)

    return call


def tap(network: Any) -> Any:
    kept: list[Any] = []
    network.tap = kept.append
    network(X)
    return kept[0]


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (Taps, key(1)),
        (Sliced, key(1)),
        (Indices, key((0, 1))),
        (ByName, key("conv")),
        (ByGetter, where(take=operator.itemgetter("conv"))),
        (Formatted, key(1)),
        (Settings, key(argparse.Namespace(index=1))),
        (Given, lambda network: network(X, "conv")),
        (Tapped, tap),
    ],
)
@pytest.mark.filterwarnings("ignore:cannot determine whether batch norms follow")
def test_value_that_another_call_takes(
    kind: type[Pair], call: Call, example: Tensor | None, randomise: Randomise
) -> None:
    model = randomise(kind().double()).eval()
    with pytest.warns(UserWarning, match=r"`(conv|features.0)`"):
        fused = fuse_model(model, example)
    networks = [fused]
    if example is not None or kind not in (Given, Sliced):  # which symbols cannot follow
        networks.append(convert_to_acnet(model, example, init="preserve").eval())
    expected = call(model)
    for network in networks:
        torch.testing.assert_close(call(network), expected, rtol=1e-9, atol=1e-10)


class Pooled(Pair):
    """Lists and indices of which none parts the pair."""

    def more(self) -> None:
        self.layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])
        self.which = 1

    def forward(self, x: Tensor) -> Any:
        sizes = [1, 2, 3][self.which]
        outs = [self.norm(self.conv(x))]
        for layer in self.layers:
            outs.append(layer(outs[-1]))
        return outs[self.which] * sizes + self.layers[self.which](outs[0])


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_other_choices_part_nothing(example: Tensor | None, randomise: Randomise) -> None:
    model: Any = randomise(Pooled().double()).eval()
    fused: Any = fuse_model(model, example)
    assert isinstance(fused.norm, nn.Identity)
    for which in (0, 1):
        fused.which = model.which = which
        torch.testing.assert_close(fused(X), model(X), rtol=1e-9, atol=1e-10)


CHOOSING: list[Callable[..., Any]] = [
    lambda f, k: f[k],
    lambda f, k: f[k.level],
    lambda f, k: f[k:],
    lambda f, k: f[k if k else 2],
    lambda f, k: f[k.a or "b"],
    lambda f, k: f.get(k),
    lambda f, k: list(f.values())[k],
    lambda f, k: [f[i] for i in k],
    lambda f, k: getattr(f, k),
    lambda y, z, k: (y, z)[int(k < 3)],
    lambda y, z, k: {"raw": y, "norm": z}[k.mode],
    lambda y, z, k: locals()[k],
]
FIXED: list[Callable[..., Any]] = [
    lambda f, k: (f[-1], f[0], f[1:], f[:-1], f["a"]),
    lambda f, k: (f.get("a"), f.pop(), f.pop(0)),
    lambda f, k: k.layers[k.index](f),
    lambda f, k: (k.norm, k.norm2)[k.index](f),
    lambda f, k: [each * 2 for each in f],
    lambda y, z, k: (y, z)[0],
]


def codes(function: Callable[..., Any]) -> list[CodeType]:
    own = function.__code__
    return [own, *(each for each in own.co_consts if isinstance(each, CodeType))]


@pytest.mark.parametrize("function", CHOOSING, ids=range(len(CHOOSING)))
def test_code_chooses(function: Callable[..., Any]) -> None:
    assert any(chooses(code, {"f"}, {"y", "z"}) for code in codes(function))


@pytest.mark.parametrize("function", FIXED, ids=range(len(FIXED)))
def test_code_does_not_choose(function: Callable[..., Any]) -> None:
    assert not any(chooses(code, {"f"}, {"y", "z"}) for code in codes(function))
