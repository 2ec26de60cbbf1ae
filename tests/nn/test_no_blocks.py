"""A network in which a builder of blocks built none is refused with the reason of each convolution."""

from __future__ import annotations

import re

import pytest
from tests.nn.builders import TwiceConv
from torch import Tensor, nn

from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBConv, ConvBuilder, MobileOneConv, PlainConv, RepVGGConv
from acnet_pl.nn.no_blocks import check_blocks


class Pointwise(nn.Module):
    """Two 1×1 convolutions and an even one from the builder, one convolution and a transposed one of its own."""

    def __init__(self, conv: ConvBuilder, num_classes: int) -> None:
        super().__init__()
        self.built = nn.Sequential(conv(3, 4, 1), conv(4, 4, 1), conv(4, 4, 2))
        self.own = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, num_classes, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.own(self.built(x)).mean((2, 3))
        return y


class Linear(nn.Module):
    def __init__(self, conv: ConvBuilder, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, num_classes)


@pytest.mark.parametrize("builder", [ACBConv(), RepVGGConv(), TwiceConv()], ids=repr)
def test_the_message_names_the_builder_and_counts_the_reasons(builder: ConvBuilder) -> None:
    reasons = (
        "all of its 5 convolutions stay plain (2 × 1×1 kernel, 1 × even kernel 2×2, 1 × nn.Conv2d that the network "
        "builds itself, 1 × nn.ConvTranspose2d that the network builds itself)"
    )
    expected = f"{type(builder).__name__} built no block in this Pointwise: {reasons}; train it with PlainConv, or"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}"):
        ImageClassifier(Pointwise, builder, 10)


def test_a_network_without_convolutions_is_refused_too() -> None:
    with pytest.raises(ValueError, match="ACBConv built no block in this Linear: it has no convolution; train it"):
        ImageClassifier(Linear, ACBConv(), 10)


class OtherBuilder(ConvBuilder):
    """Builds blocks that are none of this package's, as no error may say it did not."""

    def __call__(self, in_channels: int, out_channels: int, kernel_size: int, **_: object) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size))


@pytest.mark.parametrize("builder", [PlainConv(), MobileOneConv(), OtherBuilder(), None], ids=repr)
def test_plain_builders_and_those_with_a_block_are_not(builder: ConvBuilder | None) -> None:
    assert ImageClassifier(Pointwise, builder, 10).net.built
    check_blocks(nn.Linear(2, 2), PlainConv())
