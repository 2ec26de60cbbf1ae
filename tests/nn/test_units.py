"""timm's networks that re-parameterise themselves: through fuse_model, and by timm's own walker after a conversion."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from tests.nn.byob import shallow
from timm.models.byobnet import RepVggBlock
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import FusibleConv, FusionError, convert_to_acnet, fuse_model, stock_state_dict

Randomise = Callable[[nn.Module], nn.Module]


def images() -> Tensor:
    return torch.randn(1, 3, 64, 64)


def apart(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected = a(x)
        return float((b(x) - expected).abs().max() / expected.abs().max())


BUILD: dict[str, Callable[[], nn.Module]] = {
    "fastvit_t8": lambda: timm.create_model("fastvit_t8", num_classes=5, layers=(1, 1, 1, 1)),
    "repvgg_a0": lambda: shallow("repvgg_a0"),
    "lcnetv2_base": lambda: timm.create_model("lcnetv2_base", num_classes=5),
    "mobileone_s0": lambda: shallow("mobileone_s0"),
    "repvit_m0_9": lambda: timm.create_model("repvit_m0_9", num_classes=5, depth=(2, 1, 1, 1)),
}


@pytest.mark.parametrize("name", ["fastvit_t8", "repvgg_a0"])
def test_whole_networks_fuse_exactly(name: str, randomise: Randomise) -> None:
    model = randomise(BUILD[name]()).eval()
    fused = fuse_model(model)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert apart(model, fused, images()) <= 1e-5
    theirs = fuse_model(reparameterize_model(model))
    assert [p.shape for p in fused.parameters()] == [p.shape for p in theirs.parameters()]
    assert apart(fused, reparameterize_model(fused), images()) == 0


@pytest.mark.parametrize("name", ["lcnetv2_base", "mobileone_s0", "repvit_m0_9"])
def test_converted_networks_survive_timms_walker(name: str, randomise: Randomise) -> None:
    model = BUILD[name]()
    acnet = randomise(convert_to_acnet(model, include="stages.0")).eval()
    fused, theirs = fuse_model(acnet), reparameterize_model(copy.deepcopy(acnet))
    assert apart(acnet, fused, images()) <= 1e-5
    assert apart(acnet, theirs, images()) <= 1e-5
    assert not any(isinstance(module, FusibleConv) for module in theirs.modules())
    model.load_state_dict(stock_state_dict(acnet))
    assert apart(acnet, model.eval(), images()) <= 1e-5


# A module of that name, for whoever looks all classes of modules up by where they say that they are.
sys.modules.setdefault("timm.models.made_up", ModuleType("timm.models.made_up"))


class Unit(nn.Module):
    """A module of timm's kind; the method by which it fuses adds what it likes."""

    __module__ = "timm.models.made_up"

    def __init__(self, error: float) -> None:
        super().__init__()
        self.conv, self.bn, self.error = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), error

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out

    def fuse(self) -> nn.Conv2d:
        layer: Any = self.conv
        norm: Any = self.bn
        made: Any = nn.Conv2d(3, 4, 3)
        w = norm.weight / (norm.running_var + norm.eps).sqrt()
        made.weight.data = layer.weight * w[:, None, None, None] + self.error
        made.bias.data = (layer.bias - norm.running_mean) * w + norm.bias
        assert isinstance(made, nn.Conv2d)
        return made


def test_a_unit_is_fused_by_its_own_method_or_not_at_all(randomise: Randomise) -> None:
    right: Any = randomise(nn.Sequential(Unit(0.0))).eval().requires_grad_(False)
    fused = fuse_model(right)
    assert isinstance(fused[0], nn.Conv2d)  # type: ignore[index]
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert apart(right, fused, torch.randn(2, 3, 8, 8)) <= 1e-5
    wrong = randomise(nn.Sequential(Unit(1e-3))).eval()
    with pytest.warns(UserWarning, match=r"`0` is not fused as a whole by fuse\(\) of timm's Unit: it does not"):
        fused = fuse_model(wrong)
    assert apart(wrong, fused, torch.randn(2, 3, 8, 8)) <= 1e-5  # layer by layer
    with pytest.raises(FusionError, match=r"^`0`: it is in train mode"):
        fuse_model(right.train())


def test_a_bias_without_a_place_in_the_unit_is_refused(randomise: Randomise) -> None:
    class Loose(Unit):
        __module__ = "timm.models.made_up"

        def __init__(self) -> None:
            super().__init__(0.0)
            self.conv = nn.Conv2d(3, 4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.bn(self.conv(x).relu())
            return out

    acnet = randomise(convert_to_acnet(nn.Sequential(Loose()), init="preserve")).eval()
    with pytest.raises(FusionError, match="`conv` has gained a bias, for which the unit has no place"):
        reparameterize_model(acnet)


def test_unit_with_a_hook_inside_is_not_fused_as_a_whole(randomise: Randomise) -> None:
    model = randomise(nn.Sequential(RepVggBlock(8, 8))).double().eval()
    kept: list[Tensor] = []
    model.get_submodule("0.conv_kxk").register_forward_hook(lambda module, args, output: kept.append(output))
    with pytest.warns(UserWarning, match="`0` is not fused as a whole .*a hook of `conv_kxk` in it would be lost"):
        fused = fuse_model(model)
    kept.clear()  # what it saw while the network was traced
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))
    torch.testing.assert_close(kept[0], kept[1])


def test_stochastic_depth_that_ends_with_a_unit_is_named(randomise: Randomise) -> None:
    model = randomise(nn.Sequential(RepVggBlock(8, 8, drop_path_rate=0.5))).eval()
    with pytest.warns(UserWarning, match="`0.drop_path`: dropout or stochastic depth between layers that are now one"):
        fused = fuse_model(model)
    assert apart(model, fused, torch.randn(2, 8, 6, 6)) <= 1e-5


class Tapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unit = RepVggBlock(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.unit(x) + self.unit.conv_kxk(x)
        return out


def test_unit_whose_layers_code_outside_calls_is_not_fused_as_a_whole(randomise: Randomise) -> None:
    model = randomise(Tapped()).double().eval()
    with pytest.warns(UserWarning, match="`unit` is not fused as a whole .*code outside of it names its `conv_kxk`"):
        fused = fuse_model(model)
    assert apart(model, fused, torch.randn(2, 8, 6, 6, dtype=torch.float64)) <= 1e-12
