"""Measure the output scale that new blocks start at, relative to a plain layer's.

    python benchmarks/output_scales.py --out results/output_scales.json

A block as its file in experiments/conv/ has it, in train mode, on 64 standard normal images of 16×16 positions: the
standard deviation of all outputs, mean over five draws of kernels and images. The layers are Cifar-quick's second, in
which blocks with an identity branch have it, and its third, in which they do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
import yaml

from acnet_pl import nn as blocks
from acnet_pl.nn import ConvBuilder
from acnet_pl.reproduce.grids.blocks import GRID
from acnet_pl.reproduce.settings import EXPERIMENTS
from record import write_record

SHAPES = {"32 to 32, 5×5": (32, 32, 5), "32 to 64, 5×5": (32, 64, 5)}
VARIANTS = (*(variant.key for variant in GRID.variants), "acb_norm_after_sum")
DRAWS = 5


def builder(name: str) -> ConvBuilder:
    """Return the conv builder of a file in experiments/conv."""
    conv = yaml.safe_load((EXPERIMENTS / "conv" / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["conv"]
    conv = {"class_path": conv} if isinstance(conv, str) else conv
    made: ConvBuilder = getattr(blocks, conv["class_path"].rpartition(".")[2])(**conv.get("init_args", {}))
    return made


@torch.no_grad()
def output_scale(conv: ConvBuilder, shape: tuple[int, int, int], seed: int) -> float:
    """Return the standard deviation of a new layer's outputs."""
    torch.manual_seed(seed)
    in_channels, out_channels, size = shape
    layer = conv(in_channels, out_channels, size, padding=size // 2).train()
    return float(layer(torch.randn(64, in_channels, 16, 16)).std())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    scales = {
        name: {
            title: round(fmean(output_scale(builder(name), shape, seed) for seed in range(DRAWS)), 3)
            for title, shape in SHAPES.items()
        }
        for name in VARIANTS
    }
    write_record(options.out, {"what": "standard deviation of the outputs of new layers", "scales": scales})


if __name__ == "__main__":
    main()
