"""What evaluating an ACNet costs against the plain network: as it was trained, fused, and with gradients on.

    python benchmarks/evaluation_speed.py --device cuda --out evaluation.json

In eval mode a block computes one convolution with the kernel that it has folded before; with gradients on (for saliency
maps, say) it folds in every call. Every round times each contender once; ratios are medians over rounds of the ratio to
the plain network within a round. float32 as `fit` has it (TF32 on a GPU), channels-last. For CPUs and onnxruntime see
inference.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn import ACBConv, PlainConv, fuse_model
from record import write_record
from step_contender import IMAGENET, NETWORKS


def contenders(model: str, images: Tensor) -> dict[str, Callable[[], object]]:
    def made(conv: Any) -> nn.Module:
        torch.manual_seed(0)
        return NETWORKS[model](conv).to(images.device).to(memory_format=torch.channels_last).eval()

    def without_gradients(network: nn.Module) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return network(images)

        return run

    plain, acnet, again = made(PlainConv()), made(ACBConv(gamma_init=1 / 3)), made(ACBConv(gamma_init=1 / 3))
    return {
        "plain": without_gradients(plain),
        "acnet": without_gradients(acnet),
        "plain fused": without_gradients(fuse_model(plain)),
        "acnet fused": without_gradients(fuse_model(acnet)),
        "plain, gradients on": lambda: plain(images),
        "acnet, gradients on": lambda: again(images),  # each such call forgets what was folded
    }


def measure(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    size = options.image_size if model in IMAGENET else 32
    images = torch.randn(options.batch_size, 3, size, size, device=options.device)
    calls = contenders(model, images.to(memory_format=torch.channels_last))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 2):
        for name, call in calls.items():
            _wait(options.device)
            start = time.perf_counter()
            call()
            _wait(options.device)
            if number >= 2:  # the first rounds warm up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row = {"model": model, "contender": name, "ms": 1e3 * statistics.median(own), "ratio": middle}
        rows.append({**row, "ratio_quartiles": [low, high]})
        print(f"{model}, {name}: {row['ms']:.2f} ms, {middle:.2f} ({low:.2f}-{high:.2f}) of plain", flush=True)
    return rows


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(NETWORKS), default=["resnet18", "resnet56"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224, help="for resnet18 and resnet50")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error(f"--rounds (={options.rounds}) must be at least 3, to have quartiles")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # as `fit` does
    rows: list[dict[str, Any]] = []
    for model in options.models:
        rows += measure(model, options)
        if options.out:
            figures = {
                name: getattr(options, name) for name in ("device", "threads", "rounds", "batch_size", "image_size")
            }
            write_record(options.out, {**figures, "rows": rows})


if __name__ == "__main__":
    main()
