"""Which batch norms of public networks are fused, and what is said of the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fx_fuse
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import fuse_model
from acnet_pl.nn.surgery.fuse import fuse_with_report

Randomise = Callable[[nn.Module], nn.Module]


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def beginning(name: str, *parts: str) -> nn.Module:
    """The first parts of a network of timm, with all kinds of its layers."""
    network = timm.create_model(name)
    return nn.Sequential(*(network.get_submodule(part) for part in parts))


class PNASNetStem(nn.Module):
    """The first parts of timm's pnasnet5large, filled with small random numbers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            network: Any = timm.create_model("pnasnet5large")
        parts = (network.conv_0, network.cell_stem_0, network.cell_stem_1.conv_prev_1x1)
        self.parts = nn.ModuleList(parts)
        self.to_empty(device="cpu")
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, max(parameter[0].numel(), 4) ** -0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        conv, cell, reduction = self.parts
        x = conv(x)
        return cell(x), reduction(x)


def densenet() -> nn.Module:
    model: nn.Module = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5)
    return model


def maxvit() -> nn.Module:
    sizes: Any = {"input_size": (64, 64), "stem_channels": 8, "partition_size": 4, "num_classes": 5}
    depths: Any = {"block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 8, "stochastic_depth_prob": 0}
    model: nn.Module = torchvision.models.MaxVit(**sizes, **depths)
    return model


BLOCKS = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
INCEPTION = ("stem", "stages.0", "stages.1.downsample")
TABLE: list[tuple[str, Callable[[], nn.Module], int, int, str]] = [
    ("mixnet_s", lambda: beginning("mixnet_s", *BLOCKS[:4]), 9, 0, ""),
    ("levit_128s", lambda: beginning("levit_128s", "stem"), 4, 0, ""),
    ("levit_128s's attention", lambda: beginning("levit_128s", "stages.1.blocks.0"), 4, 0, ""),
    ("dpn68", lambda: beginning("dpn68", "features.conv1_1", "features.conv2_1"), 5, 2, "its activation lies before"),
    ("densenet121", densenet, 11, 6, "its output goes to the operation `ReLU`"),
    ("tf_efficientnet_b0", lambda: beginning("tf_efficientnet_b0", *BLOCKS), 15, 0, ""),
    ("coatnet_0_rw", lambda: beginning("coatnet_0_rw_224", "stem", "stages.0"), 7, 4, "from the operation `mul`"),
    ("maxvit_t", maxvit, 7, 0, ""),
    (
        "inception_next_tiny",
        lambda: beginning("inception_next_tiny", "stem", "stages.0", "stages.1.downsample"),
        5,
        0,
        "",
    ),
    ("fastvit_t8", lambda: beginning("fastvit_t8", "stem", "stages.0"), 16, 0, ""),
    ("mobileone_s0", lambda: beginning("mobileone_s0", "stem", "stages.0"), 23, 0, ""),
    ("repvgg_a0", lambda: beginning("repvgg_a0", "stem", "stages.0"), 7, 0, ""),
    ("pnasnet5large", PNASNetStem, 17, 0, ""),
]


def left_by_torch(model: nn.Module) -> int:
    """How many batch norms are still evaluated after torch.fx has fused; all where it fails."""
    try:
        fused: Any = fx_fuse(model)
    except Exception:
        return norms(model)
    return sum(
        node.target is F.batch_norm
        or (node.op == "call_module" and isinstance(fused.get_submodule(str(node.target)), _BatchNorm))
        for node in fused.graph.nodes
    )


@pytest.mark.parametrize(("name", "build", "before", "after", "why"), TABLE, ids=[row[0] for row in TABLE])
def test_table_of_public_networks(
    name: str, build: Callable[[], nn.Module], before: int, after: int, why: str, randomise: Randomise
) -> None:
    torch.manual_seed(0)
    model = randomise(build()).double().eval()
    x = torch.randn(2, 49, 256) if name.endswith("attention") else torch.randn(2, 3, 64, 64)
    fused, report = fuse_with_report(model, x.double() if name == "pnasnet5large" else None)  # which does not trace
    assert (norms(model), norms(fused)) == (before, after)
    assert (len(report.norms), len(report.left)) == (before, after)
    assert any(why in norm.reason for norm in report.left) or not after
    assert after <= left_by_torch(model)
    with torch.no_grad():
        expected, found = model(x.double()), fused(x.double())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class Between(nn.Module):
    """A batch norm, something that may happen to its input, and the convolution that reads it."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(x)
        other = self.what(x)
        return self.conv(out) + other  # type: ignore[no-any-return]


def plus_equals(x: Tensor) -> Tensor:
    x += 1
    return x


def set_item(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


@pytest.mark.parametrize(
    ("what", "left"),
    [(plus_equals, 1), (set_item, 1), (lambda x: x.mul_(2), 1), (nn.ReLU(inplace=True), 1), (lambda x: x.mean(), 0)],
)
@pytest.mark.parametrize("example", [False, True])
def test_input_changed_in_place_before_the_norm_is_read_keeps_it(
    what: Any, left: int, example: bool, randomise: Randomise
) -> None:
    model = randomise(Between(what)).double().eval()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.fx does not trace the assignment to an item
        fused = fuse_model(model, x.clone() if example else None)
    assert norms(fused) == left
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), model(x.clone()), rtol=1e-12, atol=1e-12)


X2, X3 = torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("first", [nn.Linear(4, 4), nn.BatchNorm1d(4)], ids=["linear first", "norm first"])
def test_other_dimensions_than_when_fused_are_an_error(first: nn.Module, randomise: Randomise) -> None:
    second = nn.BatchNorm1d(4) if isinstance(first, nn.Linear) else nn.Linear(4, 4)
    model = randomise(nn.Sequential(first, second)).double().eval()
    fused = fuse_model(model)
    assert norms(fused) == 0
    torch.testing.assert_close(fused(X2), model(X2), rtol=1e-12, atol=1e-12)
    assert model(X3).shape == X3.shape
    name = "1" if isinstance(first, nn.Linear) else "0"
    with pytest.raises(AssertionError, match=f"`{name}`: its input must have 2 dimensions.*; give the network such"):
        fused(X3)
    assert repr(fuse_model(fused)) == repr(fused)
    for again in (torch.fx.symbolic_trace(fused), torch.export.export(fused, (X2,)).module()):
        torch.testing.assert_close(again(X2), model(X2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "left", "why"),
    [
        (
            nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)),
            1,
            "`1` after it: it pads its input with zeros",
        ),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), 0, ""),
        (nn.Sequential(nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Conv2d(4, 8, 2, groups=2)), 0, ""),
        (
            nn.Sequential(nn.BatchNorm2d(4), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 8, 1)),
            1,
            "goes to the operation `AvgPool2d`",
        ),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 8, 3)), 1, "transposed convolution"),
        (nn.Sequential(nn.ConvTranspose2d(4, 8, 3, 2, groups=2), nn.BatchNorm2d(8)), 0, ""),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1, "no running statistics"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)), 1, "is computed"),
    ],
)
def test_layer_after_or_before_takes_a_norm_over_or_says_why_not(
    model: nn.Module, left: int, why: str, randomise: Randomise
) -> None:
    model = randomise(model).double().eval()
    fused, report = fuse_with_report(model)
    assert norms(fused) == len(report.left) == left
    assert all(why in norm.reason for norm in report.left)
    assert f"{1 - left} of 1 batch norms fused" in report.summary()
    assert report.reasons() == dict.fromkeys((norm.reason for norm in report.left), 1)
    assert "<td>batch norm</td>" in report._repr_html_()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-12)


def test_scripted_network_is_named_and_a_network_without_data_is_fused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        scripted = torch.jit.trace(model, torch.zeros(1, 4, 3, 3))
    with pytest.warns(UserWarning, match="was compiled by torch.jit, so nothing in it can be fused"):
        fuse_model(scripted)
    assert norms(fuse_model(model.to("meta"))) == 0


def test_record_of_whole_networks_says_the_same() -> None:
    """``python benchmarks/norms_left.py`` writes it: whole networks are dear to build and to trace."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "norms_left.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["networks"]
    kept = {name: row["left"] for name, row in rows.items() if row["left"]}
    assert len(rows) == 12
    assert kept == {"dpn68": 27, "densenet121": 62, "coatnet_0_rw_224": 10}
    for row in rows.values():
        assert row["difference"] <= 1e-12
        assert row["left"] <= row["torch_fx"].get("left", row["batch_norms"])
        assert bool(row["why"]) is bool(row["left"])


class PooledFirst(nn.Module):
    """A batch norm that nothing but a pooling comes before, and one that this call does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)
        self.heavy = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor, heavy: bool = False) -> Any:
        x = self.conv(self.norm(F.max_pool2d(x, 2)))
        return self.heavy(x) if heavy else x


@pytest.mark.parametrize("example", [None, torch.zeros(1, 3, 8, 8)], ids=["symbolic", "example"])
def test_the_reason_is_the_same_with_an_example(example: Tensor | None) -> None:
    left = {one.name: one.reason for one in fuse_with_report(PooledFirst().eval(), example)[1].norms}
    assert left["norm"].startswith("its input comes from the operation `max_pool2d`; `conv` after it: it pads")
    assert "is not called now (give an `example_input` whose arguments take its path)" in left["heavy.1"]
    reached = {"x": torch.zeros(1, 3, 8, 8), "heavy": True}
    assert not {one.name: one.reason for one in fuse_with_report(PooledFirst().eval(), reached)[1].norms}["heavy.1"]
