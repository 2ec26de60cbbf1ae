"""Networks whose values are kept, changed or read without an operation: what comes out of them is equal there too."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model

SEEN: list[Any] = []


class Keeps(Pair):
    """A convolution and a batch norm, between which a subclass keeps the value."""

    def keep(self, y: Any) -> Any:
        raise NotImplementedError

    def kept(self) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        self.keep(y)
        return self.norm(y)


class InBuffer(Keeps):
    def more(self) -> None:
        self.register_buffer("previous", None)

    def keep(self, y: Any) -> None:
        self.previous = y

    def kept(self) -> Any:
        return self.previous


class InGlobal(Keeps):
    def keep(self, y: Any) -> None:
        SEEN.append(y)

    def kept(self) -> Any:
        return SEEN[-1]


class InClass(Keeps):
    cache: dict[str, Any] = {}  # noqa: RUF012

    def keep(self, y: Any) -> None:
        self.cache["y"] = y

    def kept(self) -> Any:
        return self.cache["y"]


class InTorchsModule(Keeps):
    def more(self) -> None:
        self.relu: Any = nn.ReLU()

    def keep(self, y: Any) -> None:
        self.relu.saved = y

    def kept(self) -> Any:
        return self.relu.saved


class Slots:
    __slots__ = ("value",)


class InSlots(Keeps):
    def more(self) -> None:
        self.store: Any = Slots()

    def keep(self, y: Any) -> None:
        self.store.value = y

    def kept(self) -> Any:
        return self.store.value


class ByCallback(InGlobal):
    def more(self) -> None:
        self.callback = SEEN.append

    def keep(self, y: Any) -> None:
        self.callback(y)


class InClosure(Keeps):
    def more(self) -> None:
        value: Any = None

        def put(y: Any) -> None:
            nonlocal value
            value = y

        self.put, self.kept = put, lambda: value  # type: ignore[method-assign]

    def keep(self, y: Any) -> None:
        self.put(y)


class OnParameter(Keeps):
    def more(self) -> None:
        self.scale: Any = nn.Parameter(torch.ones(1))

    def keep(self, y: Any) -> None:
        self.scale.saved = y

    def kept(self) -> Any:
        return self.scale.saved


class AtOtherCalls(Keeps):
    """Does not keep the value now."""

    record = False

    def more(self) -> None:
        self.record = False
        self.values: dict[str, Any] = {}

    def keep(self, y: Any) -> None:
        if self.record:
            self.values["y"] = y

    def kept(self) -> Any:
        return self.values["y"]


KINDS = [InBuffer, InGlobal, InClass, InTorchsModule, InSlots, ByCallback, InClosure, OnParameter, AtOtherCalls]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    SEEN.clear()
    InClass.cache.clear()


def kept_by(network: Any) -> Any:
    network[0].record = True
    network(X)
    return network[0].kept()


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_stays(kind: type[Keeps], example: Tensor | None, randomise: Randomise) -> None:
    model = randomise(nn.Sequential(kind(), nn.Flatten()).double()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the layer stays
        fused = fuse_model(model, example)
    with torch.no_grad():
        torch.testing.assert_close(kept_by(fused), kept_by(model), rtol=0, atol=0)


class Cycle(Keeps):
    """The value is in a reference cycle, which no one refers to after the call."""

    def keep(self, y: Any) -> None:
        ring = [y]
        ring.append(ring)


class Skip(Keeps):
    """Keeps what comes after the batch norm."""

    def forward(self, x: Tensor) -> Any:
        self.features = self.norm(self.conv(x))
        return self.features + 1


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize("kind", [Cycle, Skip])
def test_what_is_not_kept_is_fused(kind: type[Keeps], example: Tensor | None, randomise: Randomise) -> None:
    model = randomise(nn.Sequential(kind()).double()).eval()
    fused: Any = fuse_model(model, example)
    assert isinstance(fused[0].norm, nn.Identity)
    torch.testing.assert_close(fused(X), model(X), rtol=1e-9, atol=1e-10)


class Iterated(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return iter([y, self.norm(y)])


class Deferred(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        z = self.norm(y)
        return lambda: (y, z)


def test_value_inside_an_iterator_or_a_function_stays(randomise: Randomise) -> None:
    for kind, read in ((Iterated, next), (Deferred, lambda out: out()[0])):
        model = randomise(kind().double()).eval()
        torch.testing.assert_close(read(fuse_model(model, X)(X)), read(model(X)), rtol=0, atol=0)


class Emptied(Keeps):
    """Changes the input of a batch norm, before a convolution takes its output, without an operation of PyTorch."""

    def more(self) -> None:
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = x * 1
        y = self.norm(x)
        x.numpy()[...] = 0
        return self.conv(y)


class Exchanged(Keeps):
    """Gives the tensor other memory, without an operation of PyTorch."""

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        y.data = x[:, :1, 1:-1, 1:-1].repeat(1, y.shape[1], 1, 1)
        return self.norm(y)


class AsParameter(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm(y) + nn.Parameter(y, requires_grad=False)


class AsSubclass(Keeps):
    def forward(self, x: Tensor) -> Any:
        class Own(Tensor):
            pass

        y = self.conv(x)
        kept = y.as_subclass(Own)
        return self.norm(y) + kept.as_subclass(Tensor)


class ByDLPack(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        kept = torch.utils.dlpack.from_dlpack(torch._C._to_dlpack(y))  # type: ignore[attr-defined]
        return self.norm(y) + kept


class ByStorage(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        storage = y.untyped_storage()
        return torch.cat([self.norm(y), torch.empty(0, dtype=y.dtype).set_(storage, 0, y.shape, y.stride())], 1)


@pytest.mark.parametrize("kind", [Emptied, Exchanged, AsParameter, AsSubclass, ByDLPack, ByStorage])
def test_memory_that_goes_to_other_libraries_is_seen(kind: type[Keeps], randomise: Randomise) -> None:
    model = randomise(kind().double()).eval()
    torch.testing.assert_close(fuse_model(model, X)(X), model(X), rtol=1e-9, atol=1e-10)


class InPlaceOnInput(Keeps):
    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x.mul_(2)))


def test_example_is_not_changed(randomise: Randomise) -> None:
    example = X.clone()
    for act in (fuse_model, convert_to_acnet):
        act(randomise(InPlaceOnInput().double()).eval(), {"x": example})
    torch.testing.assert_close(example, X, rtol=0, atol=0)


class PlusOne(nn.BatchNorm2d):
    def __getattr__(self, name: str) -> Any:
        value: Any = super().__getattr__(name)
        return value + 1 if name == "weight" else value


def test_layer_with_a_getattr_of_its_own_stays(randomise: Randomise) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), PlusOne(4)).double()).eval()
    acnet: Any = convert_to_acnet(model, init="preserve")
    assert isinstance(acnet[1], PlusOne)
    torch.testing.assert_close(acnet(X), model(X), rtol=1e-9, atol=1e-10)


def test_frames_that_torch_fx_leaves_are_found_without_collecting_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halves(Pair):
        def forward(self, x: Tensor) -> Any:
            first, second = self.norm(self.conv(x)).chunk(2, 1)  # unpacking a symbol leaves a cycle through a frame
            return first + second if self.training else first

    generations: list[int] = []
    collect = gc.collect

    def noting(generation: int = 2) -> int:
        generations.append(generation)
        return collect(generation)

    monkeypatch.setattr(gc, "collect", noting)
    gc.disable()  # nothing grows old meanwhile
    try:
        fused = fuse_model(Halves().eval())
    finally:
        gc.enable()
    assert isinstance(fused.norm, nn.Identity)
    assert generations
    assert 2 not in generations
