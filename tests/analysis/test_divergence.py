from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acnet_pl.analysis import first_divergence
from acnet_pl.nn import ACBConv, PlainConv, fuse_model


class Residual(nn.Module):
    """Ordinary layers, registered in another order than they run, with a branch and a function in between."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.norm2 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.block = ACBConv()(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(x + self.norm2(self.conv2(x)))
        x = torch.relu(self.block(x)).mean((2, 3))
        out: Tensor = self.head(x)
        return out


def _corrupt(model: nn.Module, layer: str, value: float = 0.5) -> None:
    with torch.no_grad():
        bias = model.get_submodule(layer).bias
        assert isinstance(bias, Tensor)
        bias += value


@pytest.mark.parametrize("conv", [ACBConv(), PlainConv()], ids=repr)
@pytest.mark.parametrize("layer", ["0", "2", "4", "5", "9"])
def test_the_corrupted_layer_is_named(small_net: Callable[..., nn.Module], conv: object, layer: str) -> None:
    net = small_net(conv)
    fused = fuse_model(net)
    _corrupt(fused, layer)
    result = first_divergence(net, fused, torch.randn(4, 3, 10, 10))
    assert result.layer == layer
    names = list(result.differences)
    assert names == [*map(str, range(10)), "(model)"]
    assert all(result.differences[name] < 1e-5 for name in names[: names.index(layer)])
    assert result.differences[layer] > 1e-2
    assert f"{layer:7}  {result.differences[layer]:.2e}  <- parts here" in str(result)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "block", "head"])
def test_convolutions_that_were_fused_with_a_batch_norm(
    randomised: Callable[[nn.Module], nn.Module], layer: str
) -> None:
    net = randomised(Residual())
    fused = fuse_model(net)
    assert isinstance(fused.norm1, nn.Identity)
    images = torch.randn(2, 3, 8, 8)
    unharmed = first_divergence(net, fused, images)
    assert unharmed.layer is None
    names = ["conv1", "norm1", "relu", "conv2", "norm2", "relu (call 2)", "block", "head", "(model)"]
    assert list(unharmed.differences) == names
    assert str(unharmed) == "no layer of 9 parts by more than 0.0001"
    _corrupt(fused, layer)
    assert first_divergence(net, fused, images).layer == layer


def test_a_batch_norm_with_an_activation_inside(randomised: Callable[[nn.Module], nn.Module]) -> None:
    layers = pytest.importorskip("timm.layers")
    net = randomised(nn.Sequential(nn.Conv2d(3, 8, 3), layers.BatchNormAct2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)))
    fused = fuse_model(net)
    images = torch.randn(2, 3, 8, 8)
    assert isinstance(fused.get_submodule("1.act"), nn.ReLU)
    assert first_divergence(net, fused, images).layer is None
    _corrupt(fused, "0")
    assert first_divergence(net, fused, images).layer == "1.act"  # the first output that both have


def test_nan_is_a_divergence(small_net: Callable[..., nn.Module]) -> None:
    net = small_net()
    fused = fuse_model(net)
    _corrupt(fused, "2", float("nan"))
    assert first_divergence(net, fused, torch.randn(4, 3, 10, 10), tolerance=float("inf")).layer == "2"


def test_a_single_block_is_the_model(randomised: Callable[[nn.Module], nn.Module]) -> None:
    block = randomised(ACBConv()(3, 4, 3))
    result = first_divergence(block, fuse_model(block), torch.randn(1, 3, 6, 6))
    assert result.layer is None
    assert list(result.differences) == ["(model)"]


def test_no_hooks_and_modes_are_left_behind(small_net: Callable[..., nn.Module]) -> None:
    net = small_net().train()
    fused = fuse_model(net.eval())
    net.train()
    first_divergence(net, fused, torch.randn(4, 3, 10, 10))
    for module in [*net.modules(), *fused.modules()]:
        assert not module._forward_hooks
    assert all(module.training for module in net.modules())
