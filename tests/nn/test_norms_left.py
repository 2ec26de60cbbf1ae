"""Which batch norms of public networks are fused, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fx_fuse
from torch.nn.modules.batchnorm import _BatchNorm

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
    fused, report = fuse_with_report(model)
    assert (norms(model), norms(fused)) == (before, after)
    assert (len(report.norms), len(report.left)) == (before, after)
    assert any(why in norm.reason for norm in report.left) or not after
    assert after <= left_by_torch(model)
    x = torch.randn(2, 49, 256) if name.endswith("attention") else torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = model(x.double()), fused(x.double())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
