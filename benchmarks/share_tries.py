"""What might keep the gain of ACNet with statistics from a share of the batch: tries on ResNet-20.

"running" (`share_running.yaml`) divides each branch by a running average of its standard deviation, relative to the
other branches', instead of the share's; gradients are the share's. "exact_first" (`share_exact_first.yaml`) trains two
of ten epochs as the exact block. Fixed before the first run: seeds 0 and 1, ten epochs, beside the runs with
an eighth of the batch, the exact block and the plain network of the same seeds in
`results/cifar10-jpeg/cheaper_resnet20.json`.

    PYTHONPATH=benchmarks python -m acnet_pl fit --config experiments/cifar10/resnet20.yaml
        --config benchmarks/share_running.yaml --data.root DIR --model.channels_last true --data.verify false
        --trainer.max_epochs 10 --seed_everything 0 --data.seed 0 --name running-seed0 --runs_dir RUNS
    python benchmarks/share_tries.py RUNS

The runs of "running" were trained and tested with running variances of a former kind, as those of the share in that
record. "exact_first" is not trained yet.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import ACBConv, ACBlock
from acnet_pl.nn.one_conv import sum_scaled
from acnet_pl.nn.share import images_in_share, normalise_sum, share_statistics, take_images
from record import write_record

_RECORD = Path(__file__).parents[1] / "results" / "cifar10-jpeg" / "cheaper_resnet20.json"
_BESIDE = {"plain": "plain", "exact block": "acb", "an eighth": "acb_share_eighth"}


class RunningShareBlock(ACBlock):
    """Takes how large the branches are beside each other from a running average, with the gradient of the share's."""

    def forward(self, input: Tensor) -> Tensor:
        x, layers = self._shape.pad(input), self._layers()
        norms = [layer.norm for layer in layers if isinstance(layer.norm, _BatchNorm)]
        count = images_in_share(x, self._share, norms)
        if count is None:
            return super().forward(input)
        x, part = take_images(x, count)
        of = share_statistics(norms, [layer.conv(layer.geometry.pad_or_crop(part)) for layer in layers])
        with torch.no_grad():
            running = torch.stack([norm.running_var for norm in norms if norm.running_var is not None])
            running = running.lerp(of.var, norms[0].momentum or 0.1)
            factor = torch.sqrt((of.var + norms[0].eps) / (running + norms[0].eps))
            factor /= (of.scale * factor).norm(dim=0).clamp_min(1e-12)
        of = of._replace(scale=of.scale * factor)
        kernel = sum_scaled(layers, of.scale.view(*of.scale.shape, 1, 1, 1).unbind())
        return normalise_sum(norms, of, self._shape.convolve(x, kernel), count)

    forward_branches = ACBlock.forward_branches  # in eval mode it computes what an ACBlock does
    fuse_branches = ACBlock.fuse_branches


class RunningShareConv(ACBConv):
    """Builds a RunningShareBlock for every odd kernel of 3×3 or more."""

    kind = RunningShareBlock


class ShareFrom(Callback):
    """Take the branches' scales from a share of the batch from an epoch on, counted from 0; from all of it before."""

    def __init__(self, epoch: int, share: float) -> None:
        self.epoch, self.share = epoch, share

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, ACBlock):
                module.statistics_share = self.share if trainer.current_epoch >= self.epoch else 1.0


def recorded() -> dict[tuple[str, int], float]:
    """Top-1 (%) in the record, by variant and seed."""
    runs = json.loads(_RECORD.read_text())["grids"]["cheaper"]["runs"]
    return {
        (run["variant"], run["seed"]): 100 * run["summary"]["metrics"]["test/top1"]
        for run in runs
        if run["state"] == "finished"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs, named running-seed0 and so on")
    parser.add_argument("--out", type=Path, default=Path("share_tries.json"))
    options = parser.parse_args()
    beside, rows = recorded(), list[dict[str, Any]]()
    table = Table("try", "seed", "top-1", *_BESIDE)
    for path in sorted(options.runs.glob("*-seed*/*/summary.json")):
        name, _, number = path.parents[1].name.rpartition("-seed")
        others = {title: round(beside[variant, int(number)], 2) for title, variant in _BESIDE.items()}
        found = round(100 * json.loads(path.read_text())["metrics"]["test/top1"], 2)
        rows.append({"try": name, "seed": int(number), "top-1": found, **others})
        table.add_row(*map(str, rows[-1].values()))
    Console().print(table)
    write_record(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
