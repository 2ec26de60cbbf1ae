"""Changes to the layers inside a block that fusing has to know: other forwards, biases, wrappers and hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.replaced import is_older, why_replaced

__all__ = ["check_forward", "check_hooks", "kernel_of", "why_other"]


def why_other(layer: nn.Module, convolution: bool = False) -> str:
    """Return why a layer does not compute what its kind and tensors say, or "".

    Args:
        layer: A layer inside a block.
        convolution: Whether an nn.Conv2d is expected.
    """
    kind: Any = type(layer)
    if "forward" in layer.__dict__:
        return f"the forward of its {kind.__name__} has been replaced; remove that (`del layer.forward`)"
    if why := why_replaced(layer):
        return f"in its {kind.__name__}, {why}; undo that"
    if isinstance(layer, nn.Conv2d):
        if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
            return f"its convolution is a {kind.__name__} with its own forward; put an nn.Conv2d of its weights there"
        return "its convolution has been given a bias; remove it" if layer.bias is not None else ""
    if convolution:
        return f"a {kind.__name__} is in place of its convolution; replace it by an nn.Conv2d that computes the same"
    return ""


def kernel_of(conv: nn.Conv2d) -> Tensor:
    """Return the kernel of the layer's next call, which ``torch.nn.utils`` (pruning, weight norm) sets in a hook.

    Raises:
        FusionError: The layer computes something other than the convolution with its kernel.
    """
    if reason := why_other(conv, convolution=True):
        raise FusionError(reason)
    if "weight" not in conv._parameters:
        for hook in conv._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                hook(conv, ())
    return conv.weight


def check_hooks(block: nn.Module, branches: Callable[[Tensor], Tensor], conv: nn.Conv2d) -> None:
    """Raise an error if hooks of a block's inner layers make its output differ from the fused convolution's.

    If there are such hooks, other than those of ``torch.nn.utils``, they are called once, on a small batch.

    Args:
        block: The block, in eval mode.
        branches: Evaluates the block branch by branch.
        conv: The fused convolution.

    Raises:
        FusionError: The outputs differ.
    """
    names = [name for name, layer in block.named_modules() if layer is not block and _is_hooked(layer)]
    if not names or conv.weight.is_meta:
        return
    if _differ(branches, conv):
        raise FusionError(
            f"a hook of `{names[0]}`{' or another inner layer' * (len(names) > 1)} changes its output, which no fused "
            "convolution does; remove the hook, or register it on the block"
        )


def check_forward(block: nn.Module, conv: nn.Conv2d) -> None:
    """Raise an error if a block has the forward of a base class, and that differs from the fused convolution.

    Raises:
        FusionError: The outputs differ.
    """
    if is_older(type(block), "forward", than="fuse_branches") and not conv.weight.is_meta and _differ(block, conv):
        raise FusionError(
            f"{type(block).__name__} has the forward of a base class, which computes something else than its "
            "fuse_branches; define forward in the class, too"
        )


def _differ(evaluate: Callable[[Tensor], Tensor], conv: nn.Conv2d) -> bool:
    (height, width), padding = conv.kernel_size, conv._reversed_padding_repeated_twice
    size = [d * (k - 1) + 3 + max(padding) for d, k in zip(conv.dilation, (height, width), strict=True)]
    x = torch.arange(2 * conv.in_channels * size[0] * size[1], device=conv.weight.device)
    x = x.float().cos().view(2, conv.in_channels, *size).to(conv.weight.dtype)
    expected, found = evaluate(x), conv(x)
    limit = torch.finfo(conv.weight.dtype).eps ** 0.5 * expected.abs().max()
    return expected.shape != found.shape or not bool((expected - found).abs().max() <= limit)


def _is_hooked(layer: nn.Module) -> bool:
    hooks = (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values())
    return any(not type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks)
