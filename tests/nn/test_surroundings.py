"""What lies around a network: tracing it changes nothing there, prints nothing, and runs no other library otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model

Randomise = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

SCALES: dict[str, Tensor] = {}
SHAPES: list[Any] = []
STATE = SimpleNamespace(scale=None)
SCALE: Tensor | None = None
LIBRARY: dict[str, Any] = {}
exec(  # as if it were installed
    compile(
        """
kinds = {}
def backend(x, debug=False):
    if type(x) not in kinds:
        kinds[type(x)] = "right"
    elif kinds[type(x)] != "right" or debug:
        kinds[type(x)] = "wrong"
    return 1 if kinds[type(x)] == "right" else -1
""",
        "/lib/site-packages/library.py",
        "exec",
    ),
    LIBRARY,
)
backend = LIBRARY["backend"]
backend.__module__ = "library"


class Net(nn.Module):
    """A convolution with its batch norm, and a value that a function keeps from the first call."""

    kept: Any = None

    def __init__(self, keep: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.debug = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), False
        self.keep = keep

    def forward(self, x: Tensor) -> Any:
        if self.debug:
            print(x.shape)
        return self.norm(self.conv(x)) * self.keep(self, x)


def in_dict(net: Any, x: Tensor) -> Any:
    if "scale" not in SCALES:
        SCALES["scale"] = x.new_ones(1) * 2
    return SCALES["scale"]


def in_list(net: Any, x: Tensor) -> Any:
    if not SHAPES:
        SHAPES.append(x.new_ones(1) * 2)
    return SHAPES[0]


def in_global(net: Any, x: Tensor) -> Any:
    global SCALE
    if SCALE is None:
        SCALE = x.new_ones(1) * 2
    return SCALE


def in_object(net: Any, x: Tensor) -> Any:
    if STATE.scale is None:
        STATE.scale = x.new_ones(1) * 2
    return STATE.scale


def in_class(net: Any, x: Tensor) -> Any:
    if net.kept is None:
        Net.kept = x.new_ones(1) * 2
    return Net.kept


def in_library(net: Any, x: Tensor) -> Any:
    return 2 * backend(x)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    global SCALE
    yield
    SCALES.clear()
    SHAPES.clear()
    SCALE = STATE.scale = Net.kept = None


@pytest.mark.parametrize("keep", [in_dict, in_list, in_global, in_object, in_class, in_library])
@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_tracing_changes_nothing_around_the_network(
    keep: Any, example: Any, randomise: Randomise, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = randomise(Net(keep).double()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fused = fuse_model(model, example)
        acnet = convert_to_acnet(model, X, init="preserve")
    expected = 2 * model.norm(model.conv(X))
    for network in (model, fused, acnet):
        torch.testing.assert_close(network(X), expected, rtol=1e-9, atol=1e-10)
    assert capsys.readouterr().out == ""
    if keep is in_library:
        assert isinstance(fused.norm, nn.Identity)
