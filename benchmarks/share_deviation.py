"""How far a block whose branches see a share of the batch is from the exact block, in a trained network.

Root mean square of the difference of the block's outputs in train mode, relative to the standard deviation of the exact
block's, median over batches. "all of the share" takes every mean and standard deviation from the share; "sum of the
batch" is `statistics_share`: mean and standard deviation of the branches' sum are the whole batch's. "square from the
sum" has the 1-D branches' standard deviations from the share, and that of the square one changed to what makes the
variance of the sum the batch's; it would take a second convolution.

    python benchmarks/share_deviation.py --checkpoint runs/NAME/TIME/checkpoints/last.ckpt --data.root DIR
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from acnet_pl.data import CIFARDataModule
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBlock
from record import write_record

Moments = tuple[Tensor, Tensor]


def moments(y: Tensor) -> Moments:
    """Mean and biased variance of each channel, to broadcast against ``(N, C, H, W)``."""
    return y.mean((0, 2, 3)).view(-1, 1, 1), y.var((0, 2, 3), unbiased=False).view(-1, 1, 1)


def by_share(block: ACBlock, x: Tensor, count: int) -> Tensor:
    """The block with every statistic from the first images; with all of them it is the exact block."""
    x, total = block._shape.pad(x), torch.zeros(())
    for layer in block._layers():
        assert isinstance(layer.norm, nn.BatchNorm2d)
        y = layer.conv(layer.geometry.pad_or_crop(x))
        mean, var = moments(y[:count])
        weight, bias = layer.norm.weight.view(-1, 1, 1), layer.norm.bias.view(-1, 1, 1)
        total = total + (y - mean) * weight / (var + layer.norm.eps).sqrt() + bias
    return total


def with_sum_of_batch(block: ACBlock, x: Tensor, count: int) -> Tensor:
    """The block as ``statistics_share`` has it, from its definition."""
    total = by_share(block, x, count)
    bias = torch.stack([norm.bias for norm in block.norms() if norm.bias is not None]).sum(0).view(-1, 1, 1)
    (_, share), (mean, whole) = moments(total[:count]), moments(total)
    return (total - mean) * (share / whole).sqrt() + bias


def square_from_sum(block: ACBlock, x: Tensor, count: int) -> Tensor:
    """All means from the batch; the square branch's variance is the share's and what the sum's differ by."""
    x, bias = block._shape.pad(x), torch.zeros(())
    outputs: list[Tensor] = []
    scales: list[Tensor] = []
    for layer in block._layers():
        assert isinstance(layer.norm, nn.BatchNorm2d)
        outputs.append(layer.conv(layer.geometry.pad_or_crop(x)))
        var = moments(outputs[-1][:count])[1] + layer.norm.eps
        scales.append(layer.norm.weight.view(-1, 1, 1) / var.sqrt())
        bias = bias + layer.norm.bias.view(-1, 1, 1)
    centred = [scale * (output - moments(output)[0]) for scale, output in zip(scales, outputs, strict=True)]
    whole = torch.stack(centred).sum(0)
    own = moments(centred[0][:count])[1]
    of_batch = (own + moments(whole)[1] - moments(whole[:count])[1]).clamp_min(0.1 * own)
    return whole + centred[0] * ((own / of_batch).sqrt() - 1) + bias


FORMS = {
    "all of the share": by_share,
    "sum of the batch": with_sum_of_batch,
    "square from the sum": square_from_sum,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of an ACNet that fit trained on CIFAR")
    parser.add_argument("--data.root", dest="root", default="data", help="folder of CIFAR-10")
    parser.add_argument("--images", type=int, nargs="+", default=[32, 16, 8, 4], help="in the share, of 128")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("share_deviation.json"))
    options = parser.parse_args()
    data = CIFARDataModule(root=options.root, verify=False, val_size=0, batch_size=128)
    data.prepare_data()
    data.setup("fit")
    network = ImageClassifier.load_from_checkpoint(options.checkpoint, map_location="cpu").net.train()
    blocks = {name: block for name, block in network.named_modules() if isinstance(block, ACBlock)}
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)

    def compare(name: str, block: ACBlock, x: Tensor) -> None:
        exact = by_share(block, x, len(x))
        for count in options.images:
            for what, form in FORMS.items():
                off = (form(block, x, count) - exact).square().mean().sqrt() / exact.std()
                found[name, count, what].append(float(off))

    for name, block in blocks.items():
        block.statistics_share = 1.0
        block.register_forward_pre_hook(lambda module, given, name=name: compare(name, module, given[0]))
    with torch.no_grad():
        for batch in track(islice(data.train_dataloader(), options.batches), total=options.batches):
            network(data.on_after_batch_transfer(batch, 0)[0])
    rows: list[dict[str, Any]] = [
        {"block": name, "images": count, "statistics": what, "deviation": round(median(values), 4)}
        for (name, count, what), values in found.items()
    ]
    table = Table("block", "images of 128", "statistics", "deviation")
    for row in rows:
        table.add_row(row["block"], str(row["images"]), row["statistics"], f"{row['deviation']:.3f}")
    Console().print(table)
    write_record(options.out, {"batches": options.batches, "batch_size": 128, "rows": rows})


if __name__ == "__main__":
    main()
