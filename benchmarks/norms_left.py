"""Batch norms that stay when public networks are fused, by `fuse_model` and by torch.fx, with the exactness of both.

``python benchmarks/norms_left.py [NETWORK ...]`` writes benchmarks/results/norms_left.json.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fx_fuse
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.fuse import fuse_with_report
from record import write_record

SIZES = {
    "mixnet_s": 64,
    "levit_128s": 224,
    "dpn68": 64,
    "densenet121": 64,
    "tf_efficientnet_b0": 64,
    "coatnet_0_rw_224": 224,
    "maxvit_t": 224,
    "inception_next_tiny": 64,
    "fastvit_t8": 64,
    "mobileone_s0": 64,
    "repvgg_a0": 64,
    "pnasnet5large": 96,
}


def build(name: str) -> nn.Module:
    """A network of torchvision or timm with trained-looking batch norms."""
    torch.manual_seed(0)
    maker: Any = torchvision.models.get_model if name in ("densenet121", "maxvit_t") else timm.create_model
    network: nn.Module = maker(name)
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    return network.double().eval()


def difference(network: nn.Module, fused: nn.Module, x: Tensor) -> float:
    """Largest difference relative to the largest output."""
    with torch.no_grad():
        expected, found = network(x), fused(x)
    return float((expected - found).abs().max() / expected.abs().max())


def by_torch(network: nn.Module, x: Tensor) -> dict[str, object]:
    """Count what torch.fx's fuse leaves in its graph, or say how it fails."""
    try:
        fused: Any = fx_fuse(network)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    left = sum(
        node.target is F.batch_norm
        or (node.op == "call_module" and isinstance(fused.get_submodule(str(node.target)), _BatchNorm))
        for node in fused.graph.nodes
    )
    return {"left": left, "difference": difference(network, fused, x)}


def main() -> None:
    """Fuse each network both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(SIZES), metavar="NETWORK")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "norms_left.json")
    options = parser.parse_args()
    warnings.simplefilter("error")
    figures: dict[str, object] = {}
    for name in options.networks:
        network = build(name)
        x = torch.randn(1, 3, SIZES[name], SIZES[name], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        fused, report = fuse_with_report(network)
        figures[name] = row = {
            "batch_norms": len(report.norms),
            "left": len(report.left),
            "why": dict(list(report.reasons().items())[:3]),
            "difference": difference(network, fused, x),
            "torch_fx": by_torch(network, x),
        }
        print(name, row, flush=True)
    write_record(options.out, {"networks": figures}, "timm", "torchvision")


if __name__ == "__main__":
    main()
