"""Layers inside a block that were changed act in eval mode, and `fuse` refuses what no convolution computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.builders import BUILDERS, TwiceConv
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from acnet_pl.nn import ACBConv, ConvBuilder, FusibleConv, FusionError, PlainConv, fuse_model

X = torch.randn(2, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Adapted(nn.Module):
    """A convolution with an adapter beside it, as LoRA's."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) * (1 + self.scale)
        return out


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def wrap(block: nn.Module, name: str) -> None:
    block.set_submodule(name, Adapted(block.get_submodule(name)))  # type: ignore[arg-type]


def subclass(block: nn.Module, name: str) -> None:
    block.get_submodule(name).__class__ = Doubled


def replace_forward(block: nn.Module, name: str) -> None:
    layer: Any = block.get_submodule(name)
    usual = layer.forward
    layer.forward = lambda x: usual(x) * 2


def give_bias(block: nn.Module, name: str) -> None:
    layer: Any = block.get_submodule(name)
    layer.bias = nn.Parameter(torch.ones(layer.out_channels, dtype=torch.float64))


def hook(block: nn.Module, name: str) -> None:
    block.get_submodule(name).register_forward_hook(lambda layer, inputs, output: output * 2)


CHANGES: list[tuple[Callable[[nn.Module, str], None], type[nn.Module], str]] = [
    (wrap, nn.Conv2d, "a Adapted is in place of its convolution; replace it by an nn.Conv2d"),
    (subclass, nn.Conv2d, "its convolution is a Doubled with its own forward; put"),
    (replace_forward, nn.Conv2d, "the forward of its Conv2d has been replaced; remove"),
    (replace_forward, _BatchNorm, "the forward of its BatchNorm2d has been replaced; remove"),
    (give_bias, nn.Conv2d, "its convolution has been given a bias; remove it"),
    (hook, nn.Conv2d, "a hook of `.*` changes its output, which no fused convolution does; remove"),
    (hook, _BatchNorm, "a hook of `.*` changes its output, which no fused convolution does; remove"),
]
BLOCKS = [PlainConv(), *(made for made in BUILDERS if not isinstance(made, TwiceConv))]


@pytest.mark.parametrize("builder", BLOCKS, ids=repr)
@pytest.mark.parametrize(("change", "kind", "message"), CHANGES)
def test_a_changed_layer_acts_and_is_not_fused(
    builder: ConvBuilder,
    change: Callable[[nn.Module, str], None],
    kind: type[nn.Module],
    message: str,
    randomise: Any,
) -> None:
    network = nn.Sequential(randomise(builder(4, 4, 3, padding=1)).double()).eval()
    block = network[0]
    assert isinstance(block, FusibleConv)
    names = [name for name, layer in block.named_modules() if isinstance(layer, kind)]
    with torch.no_grad():
        before = block(X)
        change(block, names[-1])
        torch.testing.assert_close(block(X), block.forward_branches(X), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(block(X), before)
    with pytest.raises(FusionError, match=f"^`0`: {message}"):
        fuse_model(network)


def test_hooks_that_only_look_and_pruned_kernels_are_fused(randomise: Any) -> None:
    network = nn.Sequential(randomise(ACBConv()(4, 4, 3, padding=1))).double().eval()
    seen: list[Tensor] = []
    network.get_submodule("0.square").register_forward_hook(lambda layer, inputs, output: seen.append(output))
    prune.l1_unstructured(network.get_submodule("0.horizontal"), "weight", 0.5)
    with torch.no_grad():
        torch.testing.assert_close(fuse_model(network)(X), network(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arguments", [(4.0, 4, 3), (4, True, 3), (4, 4, 3, 1, 0, 1, 2.0)])
def test_channels_and_groups_are_ints(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"`\w+` \(=.*\) must be an int"):
        ACBConv().kind(*arguments)
