"""Measure what layers give on some batches, for batch norms that are to pass it on unchanged in train mode too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn.fusible import exact
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.tensors import tensors_kept

__all__ = ["RunningMoments", "moments_over_batches", "passing_norm"]


@dataclass
class RunningMoments:
    """Mean and variance over all that a layer gave, per channel in float64, both ``(C,)``.

    Attributes:
        mean: The mean.
        squares: Sum of the squared deviations from it.
        count: Number of values per channel.
    """

    mean: Tensor
    squares: Tensor
    count: int

    @property
    def var(self) -> Tensor:
        """The unbiased variance."""
        return self.squares / max(self.count - 1, 1)

    @staticmethod
    def of(output: Tensor) -> RunningMoments:
        """Return the moments of one output ``(N, C, ...)``."""
        values = exact(output).transpose(0, 1).flatten(1)
        mean = values.mean(1)
        return RunningMoments(mean, (values - mean[:, None]).square().sum(1), values.shape[1])

    def add(self, other: RunningMoments) -> None:
        """Combine with the moments of more values (Chan et al.)."""
        apart, count = other.mean - self.mean, self.count + other.count
        self.squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        self.mean = self.mean + apart * (other.count / count)
        self.count = count


@torch.no_grad()
def moments_over_batches(network: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> dict[str, RunningMoments]:
    """Return the moments of the outputs of layers in eval mode, over all batches, by name.

    Args:
        network: It is not changed.
        names: The layers. Those that no batch reaches are left out.
        batches: The network's images ``(N, C, H, W)``, or tuples that begin with them.

    Raises:
        ValueError: No batch reaches any of the layers.
    """
    with tensors_kept(network):
        probe = light_copy(network).eval()
        device = next(network.parameters()).device
        found: dict[str, RunningMoments] = {}

        def observe(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
            seen = RunningMoments.of(output)
            if name in found:
                found[name].add(seen)
            else:
                found[name] = seen

        for name in names:
            probe.get_submodule(name).register_forward_hook(partial(observe, name), prepend=True)
        for batch in batches:
            images = batch[0] if isinstance(batch, (list, tuple)) else batch
            probe(images.to(device))
    if not found:
        raise ValueError("`calibrate` gives no batches that reach a converted layer; give a loader of images")
    return found


@torch.no_grad()
def passing_norm(moments: RunningMoments, eps: float, like: Tensor) -> nn.BatchNorm2d:
    """Return a batch norm that passes values with these moments: unchanged in eval mode, nearly so in train mode."""
    norm = nn.BatchNorm2d(len(moments.mean), eps, device=like.device, dtype=like.dtype)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(moments.var)
    norm.weight.copy_((exact(norm.running_var) + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)
    return norm.requires_grad_(like.requires_grad)
