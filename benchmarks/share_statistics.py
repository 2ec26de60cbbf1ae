"""Test accuracy of networks trained with `statistics_share`, by how their running statistics were averaged.

The weights stay as they are. "stored" are the running statistics of the checkpoint, "share" those of training batches
at the block's own share by this version, "exact block" those of the same batches with all images in the share.

    python benchmarks/share_statistics.py RUNS/resnet20-acb_share_eighth-seed*/*/checkpoints/last.ckpt --data.root DIR
"""

from __future__ import annotations

import argparse
import copy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from acnet_pl.data import CIFARDataModule
from acnet_pl.data.augment import augment
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBlock
from record import write_record


def top1(network: nn.Module, data: CIFARDataModule) -> float:
    network.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels, _ in data.test_dataloader():
            right += int((network(data.normalize(images)).argmax(1) == labels).sum())
            count += len(labels)
    return 100 * right / count


def follow(network: nn.Module, batches: list[Any], data: CIFARDataModule, share: float | None) -> None:
    """Let the running statistics follow training batches; None is each block's own share."""
    for block in network.modules():
        if isinstance(block, ACBlock) and share is not None:
            block.statistics_share = share
    network.train()
    with torch.no_grad():
        for images, _, indices in batches:
            network(data.normalize(augment(images, indices, seed=0, epoch=10**6, pad=data.pad, flip=data.flip)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="of ACNets that fit trained on CIFAR-10")
    parser.add_argument("--data.root", dest="root", default="data", help="folder of CIFAR-10")
    parser.add_argument("--batches", type=int, default=200, help="of 128 training images")
    parser.add_argument("--out", type=Path, default=Path("share_statistics.json"))
    options = parser.parse_args()
    data = CIFARDataModule(root=options.root, verify=False, val_size=0, batch_size=128, seed=0)
    data.prepare_data()
    data.setup()
    batches = list(islice(data.train_dataloader(), options.batches))
    table = Table("network", "stored", "share", "exact block", title="Test top-1, %")
    rows: list[dict[str, Any]] = []
    for path in track(options.checkpoints, description="Networks"):
        trained = ImageClassifier.load_from_checkpoint(path, map_location="cpu").net.to(
            memory_format=torch.channels_last
        )
        found = {"stored": top1(trained, data)}
        for name, share in (("share", None), ("exact block", 1.0)):
            network = copy.deepcopy(trained)
            follow(network, batches, data, share)
            found[name] = top1(network, data)
        rows.append({"network": path.parents[2].name, **{name: round(value, 2) for name, value in found.items()}})
        table.add_row(rows[-1]["network"], *(f"{value:.2f}" for value in found.values()))
        write_record(options.out, {"batches": options.batches, "batch_size": 128, "rows": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
