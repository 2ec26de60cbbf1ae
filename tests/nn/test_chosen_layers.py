"""Networks whose code chooses the layer outside of forward, or by a value that is the usual one now."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.nn.pairs import Pair, Randomise, X, given, hold_at_another_call, where
from torch import Tensor, nn

from acnet_pl.nn import FusionError, convert_to_acnet, fuse_model, stock_state_dict

HELPERS = ModuleType("helpers_of_a_test")
exec("import torch\ndef pick(module):\n    return module.norm if module.on else torch.tanh\n", HELPERS.__dict__)


class Switched(Pair):
    on = True

    def more(self) -> None:
        self.on = True


class ByProperty(Switched):
    @property
    def post(self) -> Any:
        return self.norm if self.on else torch.tanh

    def forward(self, x: Tensor) -> Any:
        return self.post(self.conv(x))


class ByCachedMethod(Pair):
    @functools.lru_cache(None)  # noqa: B019
    def pick(self, mode: str) -> Any:
        return self.norm if mode == "norm" else torch.tanh

    def forward(self, x: Tensor, mode: str = "norm") -> Any:
        return self.pick(mode)(self.conv(x))


class ByClassMethod(Switched):
    @classmethod
    def pick(cls, module: Any) -> Any:
        return module.norm if module.on else torch.tanh

    def forward(self, x: Tensor) -> Any:
        return self.pick(self)(self.conv(x))


class ByFunctionOfAModule(Switched):
    def forward(self, x: Tensor) -> Any:
        return HELPERS.pick(self)(self.conv(x))


class ByGetattr(Switched):
    def __getattr__(self, name: str) -> Any:
        if name == "post":
            return self.norm if self.on else torch.tanh
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Any:
        return self.post(self.conv(x))


class Gate:
    def __get__(self, module: Any, owner: Any = None) -> Any:
        return module.norm if module.on else torch.tanh


class ByDescriptor(Switched):
    post = Gate()

    def forward(self, x: Tensor) -> Any:
        return self.post(self.conv(x))


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.on = True

    def pick(self, first: Any, second: Any) -> Any:
        return first if self.on else second


class ByAnotherModule(Pair):
    def more(self) -> None:
        self.policy = Policy()

    def forward(self, x: Tensor) -> Any:
        return self.policy.pick(self.norm, torch.tanh)(self.conv(x))


def policy_off(network: Any) -> Any:
    network.policy.on = False
    try:
        return network(X)
    finally:
        network.policy.on = True


class ByIndex(Pair):
    def more(self) -> None:
        self.alpha = 1.0

    def forward(self, x: Tensor, beta: float = 1.0) -> Any:
        return (torch.tanh, self.norm)[min(self.alpha, beta) > 0.5](self.conv(x))


class ByDefault(Pair):
    def more(self) -> None:
        self.kind: Any = None

    def forward(self, x: Tensor) -> Any:
        return {"tanh": torch.tanh}.get(self.kind, self.norm)(self.conv(x))


class ByComputedName(Pair):
    def more(self) -> None:
        self.kind, self.post_bn, self.post_none = "bn", self.norm, nn.Tanh()
        del self.norm

    def forward(self, x: Tensor) -> Any:
        return getattr(self, "post_" + self.kind)(self.conv(x))


class ByWords(Pair):
    def more(self) -> None:
        self.order, self.act = "conv-norm-act", nn.Tanh()

    def forward(self, x: Tensor) -> Any:
        for name in self.order.split("-"):
            x = getattr(self, name)(x)
        return x


class ByMask(Pair):
    def more(self) -> None:
        self.steps, self.mask = nn.ModuleList([self.conv, self.norm, nn.ReLU()]), [1, 1, 1]

    def forward(self, x: Tensor) -> Any:
        for step in itertools.compress(self.steps, self.mask):
            x = step(x)
        return x


class ByLeavingOut(Pair):
    def more(self) -> None:
        self.skip: Any = None

    def forward(self, x: Tensor) -> Any:
        steps: dict[Any, Any] = {"conv": self.conv, "norm": self.norm, "act": torch.tanh}
        steps.pop(self.skip, None)
        for step in steps.values():
            x = step(x)
        return x


class ByFlagOfTheLayer(Pair):
    def more(self) -> None:
        self.norm.on = True  # type: ignore[assignment]
        self.steps = nn.ModuleList([self.conv, self.norm])

    def forward(self, x: Tensor) -> Any:
        for step in [step for step in self.steps if getattr(step, "on", True)]:
            x = step(x)
        return x


def flag_off(network: Any) -> Any:
    network.norm.on = False
    try:
        return network(X)
    finally:
        network.norm.on = True


class OnlyWithAnExample(Pair):
    """Between the layers is what does nothing now."""

    def more(self) -> None:
        self.p, self.function = 0.0, torch.Tensor.contiguous

    def between(self, x: Tensor, function: Any, act: Any) -> Any:
        return x

    def forward(self, x: Tensor, function: Any = torch.Tensor.contiguous, act: Any = nn.Identity()) -> Any:  # noqa: B008
        if not torch.isfinite(x).all():
            raise ValueError("not finite")
        return self.norm(self.between(self.conv(x), function, act))


class Dropout(OnlyWithAnExample):
    def between(self, x: Tensor, function: Any, act: Any) -> Any:
        torch.manual_seed(0)
        return F.dropout(x, self.p, True)


class FunctionArgument(OnlyWithAnExample):
    def between(self, x: Tensor, function: Any, act: Any) -> Any:
        return function(x)


class FunctionAttribute(OnlyWithAnExample):
    def between(self, x: Tensor, function: Any, act: Any) -> Any:
        return self.function(x)


class ModuleArgument(OnlyWithAnExample):
    def between(self, x: Tensor, function: Any, act: Any) -> Any:
        return act(x)


CASES: list[tuple[type[Pair], Callable[[Any], Any]]] = [
    *((kind, where(on=False)) for kind in (ByProperty, ByClassMethod, ByFunctionOfAModule, ByGetattr, ByDescriptor)),
    *((ByCachedMethod, given(mode="tanh")), (ByAnotherModule, policy_off), (ByIndex, where(alpha=0.1))),
    *((ByIndex, given(beta=0.1)), (ByDefault, where(kind="tanh")), (ByComputedName, where(kind="none"))),
    *((ByWords, where(order="conv-act-norm")), (ByMask, where(mask=[1, 0, 1])), (ByLeavingOut, where(skip="norm"))),
    *((ByFlagOfTheLayer, flag_off), (Dropout, where(p=0.5)), (FunctionArgument, given(function=torch.tanh))),
    *((FunctionAttribute, where(function=torch.tanh)), (ModuleArgument, given(act=nn.Tanh()))),
]


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize(("kind", "other"), CASES, ids=[f"{at}-{case[0].__name__}" for at, case in enumerate(CASES)])
def test_another_choice_gives_the_same_or_there_is_no_network(
    kind: type[Pair], other: Callable[[Any], Any], example: Tensor | None, randomise: Randomise
) -> None:
    hold_at_another_call(randomise(kind().double()).eval(), other, example)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("text", [str, "{}".format, lambda y: f"{y}"])
def test_text_of_an_output_stays(text: Callable[[Any], str], randomise: Randomise) -> None:
    class Logs(Pair):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            self.log = text(y)
            return self.norm(y)

    model: Any = randomise(Logs().double()).eval()
    fused: Any = fuse_model(model)
    torch.testing.assert_close(fused(X), model(X))
    assert fused.log == model.log


def test_a_choice_by_another_module_keeps_a_bias_where_it_is() -> None:
    class Chosen(ByAnotherModule):
        def forward(self, x: Tensor) -> Any:
            return self.policy.pick(self.norm, torch.tanh)(F.max_pool2d(self.conv(x), 2))

    model = Chosen()
    model.conv = nn.Conv2d(3, 4, 3, bias=False)
    with pytest.raises(FusionError, match=r"the other paths of `.*pick` .* cannot be traced"):
        stock_state_dict(convert_to_acnet(model).eval())
