"""Networks whose code changes their own tensors: trying the code changes neither the user's network nor a result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.pairs import Pair, Randomise, X, plain
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model, stock_state_dict


class Momentum(Pair):
    """A momentum encoder, updated at each call or while training."""

    always = True

    def more(self) -> None:
        self.query, self.key = nn.Linear(4, 5), nn.Linear(4, 5)

    @torch.no_grad()
    def update(self) -> None:
        for query, key in zip(self.query.parameters(), self.key.parameters(), strict=True):
            key.data = key.data * 0.9 + query.data * 0.1

    def forward(self, x: Tensor) -> Any:
        if self.always or self.training:
            self.update()
        y = self.norm(self.conv(x)).mean((2, 3))
        return self.query(y), self.key(y)


class MomentumWhileTraining(Momentum):
    always = False


class MomentumInPlace(Momentum):
    @torch.no_grad()
    def update(self) -> None:
        for query, key in zip(self.query.parameters(), self.key.parameters(), strict=True):
            key.mul_(0.9).add_(query, alpha=0.1)


class Merging(nn.Module):
    """A convolution with a low-rank update that ``train`` and ``eval`` merge, as loralib's does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.a, self.b = nn.Parameter(torch.randn(3, 9)), nn.Parameter(torch.randn(12, 3))
        self.merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.conv.weight.data += (-1 if mode else 1) * (self.b @ self.a).view_as(self.conv.weight)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Any:
        if not self.merged:
            weight = self.conv.weight + (self.b @ self.a).view_as(self.conv.weight)
            return self.conv._conv_forward(x, weight, self.conv.bias)
        return self.conv(x)


class LowRank(Pair):
    def more(self) -> None:
        self.conv, self.second = Merging(), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.second(self.conv(x).relu()))


class Counting(Pair):
    """Each third call is another one; a buffer counts."""

    calls: Tensor

    def more(self) -> None:
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        y = self.conv(x)
        return self.norm(y) if self.calls % 3 else self.norm(2 * y)


class Steps(Pair):
    def more(self) -> None:
        self.steps = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        self.steps += 1  # type: ignore[misc]
        return self.norm(self.conv(x)) * self.steps


class Memory:
    last: Any = None


class Remembers(Pair):
    """Keeps outputs in a queue, in a list within a dict, and in an object."""

    def more(self) -> None:
        self.queue: deque[Any] = deque(maxlen=5)
        self.log: dict[str, list[Any]] = {"mean": []}
        self.memory = Memory()

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.conv(x))
        self.queue.append(y.mean())
        self.log["mean"].append(y.mean())
        before, self.memory.last = self.memory.last, y.mean()
        return y + sum(self.queue) + sum(self.log["mean"]) + (0 if before is None else before)


KINDS: list[type[Pair]] = [
    *(Momentum, MomentumWhileTraining, MomentumInPlace, LowRank, Counting, Steps, Remembers),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_and_calls_give_the_same(
    kind: type[Pair], example: Tensor | None, training: bool, randomise: Randomise
) -> None:
    torch.manual_seed(0)
    model = randomise(kind().double()).train(training)
    makers: list[Callable[[], nn.Module]] = [] if training else [lambda: fuse_model(model, example)]
    if kind not in (Counting, Steps) or example is not None:  # these two torch.fx cannot trace
        makers.append(lambda: convert_to_acnet(model, example, init="preserve").eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = [make() for make in makers]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    for _ in range(4):
        expected = plain(model)
        for network in made:
            torch.testing.assert_close(plain(network), expected, rtol=1e-9, atol=1e-10)


def test_stock_weights_leave_the_acnet_as_it_was(randomise: Randomise) -> None:
    acnet = randomise(convert_to_acnet(Momentum(), init="preserve")).eval()
    before = {name: value.clone() for name, value in acnet.state_dict().items()}
    stock_state_dict(acnet)
    for name, value in acnet.state_dict().items():
        assert torch.equal(value, before[name]), name
