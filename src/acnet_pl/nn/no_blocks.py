"""check_blocks: refuse a network in which a builder of blocks built none."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.nn.modules.conv import _ConvNd

from acnet_pl.nn.conv import BlockConv, ConvBuilder
from acnet_pl.nn.fusible import FusibleConv

__all__ = ["check_blocks"]


def check_blocks(network: nn.Module, conv: ConvBuilder) -> None:
    """Raise an error if a network built with a builder of blocks has none, so that it is just the plain network.

    Args:
        network: The network.
        conv: The builder that it was built with; `PlainConv` and builders that are no `BlockConv` are not checked.

    Raises:
        ValueError: There is no block. The message counts the reasons why convolutions stayed plain.

    Examples:
        >>> from acnet_pl.nn import ACBConv
        >>> conv = ACBConv()
        >>> check_blocks(nn.Sequential(conv(3, 8, 1)), conv)
        Traceback (most recent call last):
        ValueError: ACBConv built no block in this Sequential: its one convolution stays plain ...
    """
    modules = list(network.modules())
    if not isinstance(conv, BlockConv) or any(isinstance(one, FusibleConv) and not one.is_plain for one in modules):
        return
    plain = [one for one in modules if isinstance(one, FusibleConv)]
    inside = {part for one in plain for part in one.modules()}
    reasons = Counter(conv.why_plain(one.kernel_size[0]) or "not built by this builder" for one in plain)
    reasons.update(
        f"nn.{type(one).__name__} that the network builds itself"
        for one in modules
        if isinstance(one, _ConvNd) and one not in inside
    )
    count = reasons.total()
    what = "its one convolution stays plain" if count == 1 else f"all of its {count} convolutions stay plain"
    found = f"{what} ({', '.join(f'{number} × {reason}' for reason, number in reasons.most_common())})"
    raise ValueError(
        f"{type(conv).__name__} built no block in this {type(network).__name__}: "
        f"{found if count else 'it has no convolution'}; train it with PlainConv, or choose a builder that has blocks "
        "for its kernels, or let the network build its convolutions by calling the builder that it is given"
    )
