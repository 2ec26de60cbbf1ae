"""What might keep the gain of ACNet with statistics from a share of the batch: two tries on ResNet-20.

"running" (`share_running.yaml`) divides each branch by a running average of its standard deviation, relative to the
other branches', instead of the share's; gradients are the share's. "exact first" (`share_exact_first.yaml`) trains two
of ten epochs as the exact block. Fixed before the first run: seeds 0 and 1, ten epochs, beside the runs with
an eighth of the batch, the exact block and the plain network of the same seeds in
`results/cifar10-jpeg/cheaper_resnet20.json`.

    PYTHONPATH=benchmarks python -m acnet_pl fit --config experiments/cifar10/resnet20.yaml
        --config benchmarks/share_running.yaml --data.root DIR --model.channels_last true --data.verify false
        --trainer.max_epochs 10 --seed_everything 0 --data.seed 0 --name running-seed0 --runs_dir RUNS
    python benchmarks/share_tries.py RUNS
"""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import ACBConv, ACBlock
from acnet_pl.nn.one_conv import sum_scaled
from acnet_pl.nn.share import images_in_share, normalise_sum, share_statistics, take_images


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
        assert contrast is not None
        with torch.no_grad():
            running = torch.stack([norm.running_var for norm in norms if norm.running_var is not None])
            running = running.lerp(of.var / contrast.clamp_min(1e-3), norms[0].momentum or 0.1)
            factor = torch.sqrt((of.var + norms[0].eps) / (running + norms[0].eps))
            factor /= (of.scale * factor).norm(dim=0).clamp_min(1e-12)
        of = of._replace(scale=of.scale * factor)
        kernel = sum_scaled(layers, of.scale.view(*of.scale.shape, 1, 1, 1).unbind())
        return normalise_sum(norms, of, self._shape.convolve(x, kernel), count, contrast)

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
