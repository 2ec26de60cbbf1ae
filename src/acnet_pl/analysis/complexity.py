"""Count parameters and multiply-accumulates of a model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.analysis.evaluation import evaluating, placed
from acnet_pl.analysis.inputs import sample_count, tensors_of
from acnet_pl.nn import FusibleConv, explicit_branches, keep_fused
from acnet_pl.nn.surgery.running import call

__all__ = ["Complexity", "complexity"]


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-accumulates of a model.

    Attributes:
        parameters: Number of parameters, trainable or not; buffers such as running statistics are not counted.
        macs: Multiply-accumulates for one image, in convolutions and matrix products.
        input_shape: ``(C, H, W)`` of that image; of several inputs, the first one's.
    """

    parameters: int
    macs: int
    input_shape: tuple[int, ...]

    def as_dict(self) -> dict[str, int | tuple[int, ...]]:
        """Return the attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        size = "×".join(map(str, self.input_shape))
        return f"{self.parameters / 1e6:.3f} M parameters, {self.macs / 1e6:.2f} M multiply-accumulates for {size}"


def complexity(
    model: nn.Module, input_shape: tuple[int, ...] | None = None, *, example_input: Any = None
) -> Complexity:
    """Count parameters and multiply-accumulates of a model as it is given, by evaluating it once.

    Counted are convolutions and matrix products (linear layers, attention), as half the FLOPs that
    ``torch.utils.flop_counter`` reports; not biases, batch norms, activations and pooling. A block counts as what a
    training step's forward pass computes: every branch where each has its own batch norm, one convolution of the summed
    kernel where batch norm follows the sum, both where branches are evaluated on a share of the batch. Count the fused
    copy for the cost of deployment. The model, its mode and its buffers stay as they are.

    Args:
        model: Takes images ``(N, C, H, W)``, or the example.
        input_shape: ``(C, H, W)`` of one image, which is all zeros.
        example_input: Instead: a tensor, a tuple of positional arguments or a dict of keyword arguments. The count is
            divided by its number of samples.

    Raises:
        ValueError: There is neither a shape nor an example.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
        >>> print(complexity(net, (3, 4, 4)))
        0.002 M parameters, 0.00 M multiply-accumulates for 3×4×4
    """
    if example_input is None:
        if input_shape is None:
            raise ValueError("complexity needs the `input_shape` of an image or an `example_input`")
        example_input = torch.zeros(1, *input_shape)
    inputs = placed(model, example_input)
    shape = next((tuple(tensor.shape[1:]) for tensor in tensors_of(inputs)), ())
    with evaluating(model), keep_fused(model):
        call(model, inputs)  # after which the fused kernels are kept, whose making does not depend on the input
        flops, fused = _flops(model, inputs)
        with explicit_branches(model):
            _, apart = _flops(model, inputs)
    for block in fused:
        share = block.share_apart
        flops += round(share * apart[block]) - (fused[block] if share == 1 else 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, flops // 2 // max(1, sample_count(inputs)), shape)


def _flops(model: nn.Module, inputs: Any) -> tuple[int, dict[FusibleConv, int]]:
    """Count the operations of one evaluation, in all and per block."""
    counter = FlopCounterMode(display=False)
    blocks: dict[FusibleConv, int] = {}

    def before(block: FusibleConv, args: Any) -> None:
        blocks[block] = blocks.get(block, 0) - counter.get_total_flops()

    def after(block: FusibleConv, args: Any, output: Any) -> None:
        blocks[block] += counter.get_total_flops()

    with ExitStack() as hooks:
        for block in model.modules():
            if isinstance(block, FusibleConv):
                hooks.callback(block.register_forward_pre_hook(before).remove)
                hooks.callback(block.register_forward_hook(after).remove)
        with counter:
            call(model, inputs)
    return counter.get_total_flops(), blocks
