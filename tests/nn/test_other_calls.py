"""Networks that do something else at another call: what comes out of them equals them there too, or is an error."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X, given, hold_at_another_call, plain, where
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from acnet_pl.nn import convert_to_acnet, fuse_model


class TrainsNorm(Pair):
    def forward(self, x: Tensor, adapt: bool = False) -> Any:
        self.norm.train(adapt)
        return self.norm(self.conv(x))


class SetsMode(Pair):
    adapt = False

    def more(self) -> None:
        self.adapt = False

    def forward(self, x: Tensor) -> Any:
        self.norm.training = self.adapt
        return self.norm(self.conv(x))


class Taps(Pair):
    """Not traceable, and looks into a part of itself."""

    def more(self) -> None:
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        x = x * 2 if x.shape[-1] < 4 else x
        taps = []
        for layer in self.features:
            taps.append(x := layer(x))
        return taps[0]


class Inner(Pair):
    def more(self) -> None:
        self.part = Pair()

    def forward(self, x: Tensor) -> Any:
        return self.part(x) + self.part.conv(x) if x.shape[-1] > 4 else self.part(x)


class Hooked(Pair):
    def more(self) -> None:
        self.register_forward_hook(lambda module, args, out: out + module.conv(args[0]))


class OwnCall(Pair):
    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x) + self.conv(x)


class Patched(Pair):
    def more(self) -> None:
        self.identity = nn.Identity()
        self.identity.forward = torch.tanh  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.identity(self.conv(x)))


class Clipped(Pair):
    """A path that no trace follows to its end."""

    def forward(self, x: Tensor, clip: float | None = None) -> Any:
        y = self.conv(x)
        if clip is not None:
            y = y.clamp(max=y.quantile(float(clip)).item())
        return self.norm(y)


class Transformed(Pair):
    function: Any = None

    def more(self) -> None:
        self.function = None

    def forward(self, x: Tensor, function: Any = None) -> Any:
        y = self.conv(x)
        if function:
            y = function(y)
        if self.function is not None:
            y = self.function(y)
        return self.norm(y)


class Scaled(Pair):
    functions: Any = None

    def more(self) -> None:
        self.functions = []

    def forward(self, x: Tensor, scales: tuple[float, ...] = ()) -> Any:
        y = self.conv(x)
        for scale in scales:
            y = y * scale
        for function in self.functions:
            y = function(y)
        return self.norm(y)


ACTIVATIONS: dict[str, Any] = {"identity": lambda x: x, "tanh": torch.tanh}


class ByKey(Pair):
    activation = "identity"

    def more(self) -> None:
        self.activation = "identity"

    def forward(self, x: Tensor) -> Any:
        return self.norm(ACTIVATIONS[self.activation](self.conv(x)))


class Absent(Pair):
    """A key that the dict does not have now."""

    which = "none"

    def more(self) -> None:
        self.table, self.which = nn.ModuleDict({"tanh": nn.Tanh()}), "none"

    def forward(self, x: Tensor, which: str | None = None) -> Any:
        y = self.conv(x)
        if self.which in self.table:
            y = self.table[self.which](y)
        return self.norm(y if which is None else self.table[which](y))


class Kinds(Pair):
    def more(self) -> None:
        self.norms = nn.ModuleDict({"batch": nn.BatchNorm2d(4), "group": nn.GroupNorm(2, 4)})

    def forward(self, x: Tensor, which: str = "batch") -> Any:
        return self.norms[which](self.conv(x))


class Operations(Pair):
    def more(self) -> None:
        self.table = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1), "skip": nn.Identity()})

    def forward(self, x: Tensor, which: str = "conv") -> Any:
        return self.norm(self.table[which](self.conv(x).relu()))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Between(Pair):
    """What is chosen passes its input on now."""

    now: Callable[[], nn.Module] = nn.Identity

    def more(self) -> None:
        self.table = nn.ModuleDict({"now": type(self).now(), "later": nn.Tanh()})

    def forward(self, x: Tensor, which: str = "now") -> Any:
        return self.norm(self.table[which](self.conv(x)))


class BetweenOwn(Between):
    now = Same


class BetweenEmpty(Between):
    now = nn.Sequential


class Table(Pair):
    def more(self) -> None:
        self.other = nn.BatchNorm2d(4)
        self.table = {"now": self.norm, "later": self.other}

    def forward(self, x: Tensor, which: str = "now") -> Any:
        return self.table[which](self.conv(x))


class ByName(Pair):
    which = "norm"

    def more(self) -> None:
        self.other, self.which = nn.BatchNorm2d(4), "norm"

    def forward(self, x: Tensor) -> Any:
        return self.get_submodule(self.which)(self.conv(x))


class Bank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n0, self.n1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)


class FromBank(Pair):
    index = 0

    def more(self) -> None:
        self.bank, self.index = Bank(), 0

    def forward(self, x: Tensor) -> Any:
        return getattr(self.bank, f"n{self.index}")(self.conv(x))


class FromSequential(Pair):
    def more(self) -> None:
        self.bank = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))

    def forward(self, x: Tensor, index: int = 0) -> Any:
        return self.bank[index](self.conv(x))


class Catches(Pair):
    def more(self) -> None:
        self.table: dict[str, Callable[[Tensor], Tensor]] = {}

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        try:
            y = self.table["more"](y)
        except KeyError:
            return self.norm(y)
        return self.norm(y)


class CatchesAll(Catches):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        try:
            y = self.table["more"](y)
        except:  # noqa: E722
            return self.norm(y)
        return self.norm(y)


class Suppresses(Catches):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        with contextlib.suppress(KeyError):
            y = self.table["more"](y)
        return self.norm(y)


class Loops(Pair):
    def more(self) -> None:
        self.sizes = [8]

    def forward(self, x: Tensor) -> Any:
        y, rest = self.conv(x), [*self.sizes]
        while rest:
            if rest.pop() > 8:
                y = y * 2
        return self.norm(y)


class Picks(Pair):
    def more(self) -> None:
        self.which = "now"

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm({"now": lambda y: y, "later": torch.tanh}[self.which](y))


class OneOf(Picks):
    def forward(self, x: Tensor) -> Any:
        table = [lambda y: y, torch.tanh]
        return self.norm(table[self.which in ("later", "never")](self.conv(x)))


class Settings(Pair):
    settings = SimpleNamespace(activation=None)

    def more(self) -> None:
        self.settings = SimpleNamespace(activation=None)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.norm({None: lambda y: y, "tanh": torch.tanh}[self.settings.activation](y))


class Stores(Pair):
    """Keeps a feature where somebody has asked for one."""

    store: dict[str, list[Tensor]] = {}  # noqa: RUF012

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if "conv" in self.store:
            self.store["conv"].append(y)
            return y
        return self.norm(y)


class OfClass(Pair):
    """Options that are attributes of the class."""

    activation = "none"
    count = 1
    order = ("conv", "norm")

    def more(self) -> None:
        self.relu = nn.ReLU()
        self.step = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        for name in self.order:
            x = getattr(self, name)(x)
        for _ in range(self.count):
            x = self.step(x)
        return ACTIVATIONS[self.activation](x) if self.activation != "none" else x


class Repeats(Pair):
    """Not traceable, with arguments that the example leaves out."""

    def more(self) -> None:
        self.step = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, count: int = 1, *, normed: bool = True) -> Any:
        if not torch.isfinite(x).all():
            raise ValueError("not finite")
        x = self.conv(x)
        for _ in range(count):
            x = self.step(x)
        chosen: list[Any] = [normed and self.norm, nn.ReLU()]
        return nn.Sequential(*filter(None, chosen))(x)


class MadeOnTheSpot(Pair):
    def forward(self, x: Tensor, normed: bool = True) -> Any:
        norm = self.norm if normed else nn.Identity()
        return norm(self.conv(x))


CASES: list[tuple[type[Pair], Callable[[Any], Any]]] = [
    *((kind, plain) for kind in (Taps, Inner, Hooked, OwnCall, Patched)),
    *((TrainsNorm, given(adapt=True)), (SetsMode, where(adapt=True)), (Clipped, given(clip=0.5))),
    *((Transformed, given(function=torch.tanh)), (Transformed, where(function=torch.tanh))),
    *((Scaled, given(scales=(0.5,))), (Scaled, where(functions=[torch.tanh])), (ByKey, where(activation="tanh"))),
    *((Absent, where(which="tanh")), (Absent, given(which="tanh")), (Kinds, given(which="group"))),
    *((Operations, given(which="skip")), (Between, given(which="later")), (BetweenOwn, given(which="later"))),
    *((BetweenEmpty, given(which="later")), (Table, given(which="later")), (ByName, where(which="other"))),
    *((FromBank, where(index=1)), (FromSequential, given(index=1)), (Loops, where(sizes=[9]))),
    *((kind, where(table={"more": torch.tanh})) for kind in (Catches, CatchesAll, Suppresses)),
    *((kind, where(which="later")) for kind in (Picks, OneOf)),
    (Settings, where(settings=SimpleNamespace(activation="tanh"))),
    *((Stores, where(store={"conv": []})), (OfClass, where(activation="tanh")), (OfClass, where(count=2))),
    *((OfClass, where(order=("conv", "relu", "norm"))), (Repeats, given(count=2)), (Repeats, given(count=0))),
    *((Repeats, given(normed=False)), (MadeOnTheSpot, given(normed=False))),
]


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize(("kind", "other"), CASES, ids=[f"{at}-{case[0].__name__}" for at, case in enumerate(CASES)])
def test_another_call_gives_the_same_or_there_is_no_network(
    kind: type[Pair], other: Callable[[Any], Any], example: Tensor | None, randomise: Randomise
) -> None:
    hold_at_another_call(randomise(kind().double()).eval(), other, example)


class Checked(Pair):
    """An error of its own between the layers, which no call goes past."""

    def forward(self, x: Tensor, strict: bool = False) -> Any:
        y = self.conv(x)
        if strict and self.training:
            raise ValueError("not while training")
        assert y is not None
        return self.norm(y)


class Heads(Pair):
    """The pair is in one entry of several, which is called as a whole."""

    def more(self) -> None:
        del self.conv, self.norm
        self.heads = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for name in "ab"})

    def forward(self, x: Tensor, head: str = "a") -> Any:
        return self.heads[head](x)


class Part(Pair):
    """The beginning of a longer network."""

    def more(self) -> None:
        del self.conv, self.norm
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Any:
        return self.features[:2](x)


@pytest.mark.parametrize(
    ("kind", "norms_left", "example"),
    [(Checked, 0, None), (Checked, 0, X), (Heads, 1, None), (Heads, 1, X), (Part, 1, X)],
)
def test_what_no_call_changes_is_fused(
    kind: type[Pair], norms_left: int, example: Tensor | None, randomise: Randomise
) -> None:
    fused = fuse_model(randomise(kind().double()).eval(), example)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == norms_left


def clip(module: Any) -> None:
    module.weight.data.clamp_(-0.05, 0.05)


KEPT: dict[Any, Any] = {}


def keep(module: Any, args: Any) -> None:
    KEPT[module] = (module.training, module.__class__.__name__)


class Clipping:
    def __call__(self, module: Any, args: Any) -> None:
        self.clip(module)

    def clip(self, module: Any) -> None:
        clip(module)


def count(module: Any, args: Any) -> None:
    module.calls = getattr(args, "calls", 0)


HOOKS: list[tuple[Any, bool]] = [
    (lambda module, args: clip(module), True),
    (functools.partial(lambda limit, module, args: clip(module), 1), True),
    (Clipping(), True),
    (lambda *args: clip(args[0]), True),
    (lambda module, args: setattr(module, "calls", 1), True),
    (lambda module, args: None, False),
    (lambda *_: None, False),
    (functools.partial(lambda limit, module, args: None, 1), False),
    (count, False),
    (keep, False),
]


@pytest.mark.parametrize(("hook", "stays"), HOOKS)
def test_layer_whose_hook_may_use_its_parameters_stays(hook: Any, stays: bool, randomise: Randomise) -> None:
    model: Any = randomise(Pair().double()).eval()
    model.conv.register_forward_pre_hook(hook)
    fused = fuse_model(model)
    assert isinstance(fused.norm, nn.BatchNorm2d) == stays


def test_hook_on_all_modules_is_refused() -> None:
    handle = register_module_forward_hook(lambda module, args, out: None)
    try:
        for act in (fuse_model, convert_to_acnet):
            with pytest.raises(ValueError, match="a hook on all modules"):
                act(Pair().eval())
    finally:
        handle.remove()


class Teacher(Pair):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


def test_network_whose_copy_is_itself_is_refused() -> None:
    model = nn.Sequential(Teacher()).eval()
    for act in (fuse_model, convert_to_acnet):
        with pytest.raises(ValueError, match="the copy still has the original's `0`"):
            act(model)
    assert isinstance(model[0].norm, nn.BatchNorm2d)


def reflect() -> nn.Module:
    model = Pair()
    model.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    model.conv.padding = (0, 0)
    return model


def dilated() -> nn.Module:
    model = Pair()
    model.conv = nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect")
    model.conv.dilation = (2, 2)
    return model


def strided() -> nn.Module:
    model = Pair()
    model.conv.stride = 2  # type: ignore[assignment]
    return model


def cut() -> Any:
    model: Any = Pair()
    model.conv.weight, model.conv.bias = nn.Parameter(model.conv.weight[:2].detach()), None
    model.norm = nn.BatchNorm2d(2)
    return model


CHANGED = [
    (reflect, "pads as it was built"),
    (dilated, "say padding 'same' and dilation .2, 2., but it pads as it was built"),
    (strided, "stride was set to 2"),
    (cut, r"its weight has the shape \(2, 3, 3, 3\)"),
]


@pytest.mark.parametrize(("build", "why"), CHANGED)
def test_convolution_whose_attributes_were_changed_stays(build: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(ValueError, match=f"nothing to convert.*{why}"):
        convert_to_acnet(build().double(), init="preserve")
