"""What lies between two layers by other means than a name: at another call it may be something else."""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import itertools
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X, given, plain, where
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from acnet_pl.nn import convert_to_acnet, fuse_model, stock_state_dict

Between = Callable[[Any, Tensor], Any]
Call = Callable[[Any], Any]
BIG = torch.cat([X, X], -1)


def same(y: Tensor) -> Tensor:
    return y


FUNCTIONS: dict[Any, Any] = {"no": same, "tanh": torch.tanh, None: same, 0: same, 9: torch.tanh}


class Act(enum.Enum):
    NO = 0
    TANH = 1


Config = collections.namedtuple("Config", "act")


class Net(Pair):
    """A value between the layers passes what a setting gives."""

    between: Any

    def __init__(self, between: Between, setting: Any = None) -> None:
        super().__init__()
        self.setting = setting
        type(self).between = between

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.between(self.conv(x)))


def net(between: Between, setting: Any) -> Callable[[], nn.Module]:
    return lambda: type("Net", (Net,), {})(between, setting)  # its class holds the function


def over(y: Tensor, functions: Iterable[Any]) -> Tensor:
    for function in functions:
        y = function(y)
    return y


def table(first: Any) -> dict[Act, Any]:
    return {Act.NO: first, Act.TANH: torch.tanh}


def depth_of(network: Any, y: Tensor) -> Tensor:
    dropped: Tensor = stochastic_depth(y, network.setting, "batch", training=network.training)
    return dropped


SETTINGS: dict[str, tuple[Any, Any, Between]] = {
    "key None": (None, "tanh", lambda net, y: FUNCTIONS[net.setting](y)),
    "far number": (0, 9, lambda net, y: FUNCTIONS[net.setting](y)),
    "threshold": (0.0, 1.0, lambda net, y: [same, torch.tanh][net.setting > 0.5](y)),
    "empty dict": ({}, {"a": torch.tanh}, lambda net, y: net.setting.get("a", same)(y)),
    "empty list": ([], [torch.tanh], lambda net, y: over(y, net.setting)),
    "name in a list": (["no"], ["tanh"], lambda net, y: FUNCTIONS[net.setting[0]](y)),
    "namedtuple": (Config("no"), Config("tanh"), lambda net, y: FUNCTIONS[net.setting.act](y)),
    "enum": (Act.NO, Act.TANH, lambda net, y: table(same)[net.setting](y)),
    "function": (same, torch.tanh, lambda net, y: net.setting(y)),
    "partial": (functools.partial(same), functools.partial(torch.tanh), lambda net, y: net.setting(y)),
    "two in one": ((), (1, 1), lambda net, y: y.tanh() if net.setting[:1] and net.setting[1:2] else y),
}


class Static(Pair):
    def more(self) -> None:
        self.setting = 0

    @staticmethod
    def act(y: Tensor, setting: int) -> Tensor:
        return y.tanh() if setting > 8 else y

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.act(self.conv(x), self.setting))


class Property(Static):
    @property
    def chosen(self) -> Any:
        return torch.tanh if self.setting > 8 else same

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.chosen(self.conv(x)))


class Decorated(Static):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm(y.tanh() if self.setting > 8 else y)


class BySuffix(Static):
    setting: Any = None

    def more(self) -> None:
        self.setting = "whole"

    def forward(self, x: Tensor) -> Any:
        return getattr(self, f"forward_{self.setting}")(x)

    def forward_whole(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))

    def forward_part(self, x: Tensor) -> Any:
        return self.conv(x)


class Together(Static):
    """Settings that matter only together."""

    a, b, c, d = False, 0, 0.0, 0

    def more(self) -> None:
        self.a, self.b, self.c, self.d = False, 0, 0.0, 0

    def further(self, y: Tensor) -> Tensor:
        return y.tanh() if self.d else y

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.a and self.b and self.c > 0:
            y = y.tanh()
        return self.norm(self.further(y) if self.b else y)


class Stops(Pair):
    depth = 5

    def more(self) -> None:
        del self.conv, self.norm
        pairs = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
        self.layers, self.depth = nn.ModuleList(pairs), 5

    def chosen(self) -> Iterable[nn.Module]:
        return self.layers

    def forward(self, x: Tensor, stop: int | None = None) -> Any:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == stop:
                break
        return x


class Slices(Stops):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        for layer in self.layers[: self.depth]:  # type: ignore[union-attr]
            x = layer(x)
        return x


class Islices(Stops):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        for layer in itertools.islice(self.layers, self.depth):
            x = layer(x)
        return x


class Outputs(Pair):
    def forward(self, x: Tensor, names: tuple[str, ...] = ("out",)) -> Any:
        y = self.conv(x)
        z = self.norm(y)
        found = {"conv": y, "norm": z, "out": z.relu()}
        return torch.stack([found[name] for name in names])


class Swallows:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> bool:
        return True


class Guarded(Pair):
    def more(self) -> None:
        self.table: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        with Swallows():
            y = self.table["more"](y)
        return self.norm(y)


class Skips(Pair):
    def forward(self, x: Tensor, *skips: Tensor) -> Any:
        y = self.conv(x)
        for skip in skips:
            y = y + skip
        return self.norm(y)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.on = False

    def forward(self, y: Tensor) -> Tensor:
        return y.tanh() if self.on else y


class BySize(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return y.tanh() if y.shape[-1] > 8 else y


def through(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *modules, nn.BatchNorm2d(4), nn.ReLU())


@contextlib.contextmanager
def changed(module: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    yield
    vars(module).update(before)


def dropping(network: Any) -> Any:
    with changed(network[1], training=True, **{"p" if hasattr(network[1], "p") else "drop_prob": 0.5}):
        torch.manual_seed(0)
        return network(X)


def open_gate(network: Any) -> Any:
    with changed(network[1], on=True):
        return network(X)


CASES: dict[str, tuple[Callable[[], nn.Module], Call]] = {
    **{name: (net(between, now), where(setting=later)) for name, (now, later, between) in SETTINGS.items()},
    "stochastic depth": (net(depth_of, 0.0), where(setting=1.0, training=True)),
    **{kind.__name__: (kind, where(setting=9)) for kind in (Static, Property, Decorated)},
    "by suffix": (BySuffix, where(setting="part")),
    "three together": (Together, where(a=True, b=1, c=1.0)),
    "one of several outputs": (Outputs, given(names=("conv",))),
    "two functions": (Together, where(b=1, d=1)),
    "stops": (Stops, given(stop=3)),
    "stops early": (Stops, given(stop=0)),
    **{kind.__name__: (kind, where(depth=1)) for kind in (Slices, Islices)},
    "swallows": (Guarded, where(table={"more": torch.tanh})),
    "skips": (Skips, lambda network: network(X, torch.ones(2, 4, 6, 6, dtype=X.dtype))),
    "gate": (lambda: through(Gate()), open_gate),
    "gate by size": (lambda: through(BySize()), lambda network: network(BIG)),
    "drop path": (lambda: through(DropPath(0.0)), dropping),
    "dropout": (lambda: through(nn.Dropout2d(0.0)), dropping),
}


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize("name", CASES)
def test_another_call_gives_the_same_or_there_is_no_network(
    name: str, example: Tensor | None, randomise: Randomise
) -> None:
    build, other = CASES[name]
    model = randomise(build().double()).eval()
    networks: list[tuple[nn.Module, nn.Module]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        networks.append((model, fuse_model(model, example)))
        with contextlib.suppress(ValueError):  # it asks for an example input, or stock weights have no place for a bias
            acnet = convert_to_acnet(model, example, init="preserve")
            networks.append((model, acnet))
            acnet = randomise(convert_to_acnet(model, example)).eval()
            stock = build().double().eval()
            stock.load_state_dict(stock_state_dict(acnet))
            networks.append((acnet, stock))
    for original, network in networks:
        for call in (plain, other):
            with torch.no_grad():
                torch.testing.assert_close(call(network), call(original), rtol=1e-9, atol=1e-10)


class Comprehends(Pair):
    """Several convolutions at once, as in timm's MixedConv2d, and modules that pass a value on."""

    def more(self) -> None:
        self.convs, self.norm = nn.ModuleList([nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)]), nn.BatchNorm2d(4)
        self.passing = nn.Sequential(nn.Identity(), nn.Identity())
        del self.conv

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.passing(torch.cat([conv(x) for conv in self.convs], 1)))


class Iterates(Stops):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        for layer in self.layers:
            x = layer(x)
        return x


class NoGradients(Pair):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize("kind", [Comprehends, Iterates, NoGradients])
def test_what_no_call_changes_is_fused(kind: type[Pair], example: Tensor | None, randomise: Randomise) -> None:
    model = randomise(kind().double()).eval()
    fused = fuse_model(model, example)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(X), model(X), rtol=1e-9, atol=1e-10)


def test_values_of_the_user_stay_as_they_are(randomise: Randomise) -> None:
    class ByMember(Pair):
        def more(self) -> None:
            self.act, self.settings = Act.NO, types.SimpleNamespace(act="no")

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x) if self.act.value == 0 else x
            return self.norm(FUNCTIONS[self.settings.act](y))

    model: Any = randomise(ByMember()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fuse_model(model)
    assert [(act, act.value, act.name) for act in Act] == [(Act.NO, 0, "NO"), (Act.TANH, 1, "TANH")]
    assert (model.act, model.settings.act) == (Act.NO, "no")


def test_registry_of_subclasses_holds_the_users_classes_alone(randomise: Randomise) -> None:
    registry: dict[str, type] = {}

    class Base(Pair):
        def __init_subclass__(cls) -> None:
            registry[cls.__name__] = cls

    class Registered(Base):
        def more(self) -> None:
            self.extra = False

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return self.norm(y.tanh() if self.extra else y)

    with pytest.warns(UserWarning, match="decides in line|depends on"):
        fuse_model(randomise(Registered()).eval())
    assert registry == {"Registered": Registered}


def test_function_that_would_use_the_original_is_refused() -> None:
    model = Pair()
    before = model.norm.forward
    model.norm.forward = lambda x: before(x).tanh()
    with pytest.raises(ValueError, match=r"the function in `norm.forward` uses `norm`, as a copy of it would"):
        fuse_model(model.eval())
