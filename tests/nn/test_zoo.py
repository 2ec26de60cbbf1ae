"""Real architectures, torchvision's and timm's: converted, trained, fused and brought back to stock."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.nn.byob import shallow
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet

from acnet_pl.nn import ACBlock, FusionError, conversion_report, convert_to_acnet, fuse_model, stock_state_dict

Randomise = Callable[[nn.Module], nn.Module]
Difference = Callable[[nn.Module, nn.Module, Tensor], float]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@dataclass(frozen=True)
class Case:
    """An architecture, how many of its convolutions become blocks, how many of these with their batch norm."""

    name: str
    converted: int
    with_norm: int
    size: int = 64
    dtype: torch.dtype = torch.float32
    tolerance: float = 0.0  # where random statistics amplify rounding; 0 is 1e-5 in float32 and 1e-11 in float64
    slow: bool = False  # a sibling, with the same data flow, of a network that is tried each time
    stock: str = ""  # the block that the error names where the stock model has no place for a bias
    undecided: str = ""  # the batch norm that fusing leaves, with a warning, since an attribute decides who reads it
    parts: tuple[str, ...] = ()  # the first layers of a deep network, with all kinds of its layers, one after another
    norms: int = 0  # how many batch norms fusing leaves
    options: dict[str, Any] = field(default_factory=dict)  # of timm's network: its stages, each not as deep

    def build(self) -> nn.Module:
        library, name = self.name.split("/")
        if library == "byob":
            return shallow(name, num_classes=7)
        if library == "timm":
            model: nn.Module = timm.create_model(
                name, num_classes=7, **copy.deepcopy(self.options)
            )  # some change theirs
            if self.parts:
                model = nn.Sequential(*(model.get_submodule(part) for part in self.parts))
            return model.to(self.dtype)
        model = TORCHVISION[name]() if name in TORCHVISION else torchvision.models.get_model(name, num_classes=7)
        return model.to(self.dtype)


def with_small_head(build: Callable[..., nn.Module], features: int) -> nn.Module:
    """Without the hundred million weights of its linear layers."""
    with torch.device("meta"):
        model = build(init_weights=False) if "init_weights" in build.__annotations__ else build()
    model.classifier = nn.Linear(features, 7)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            module.reset_parameters()
    return model


def segmentation(name: str) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights_backbone=None, num_classes=7, aux_loss=True)
    return model


def shallow_deeplab() -> nn.Module:
    """With one or two blocks in each stage of its ResNet, whose last ones are dilated."""
    backbone = ResNet(Bottleneck, [1, 1, 2, 2], replace_stride_with_dilation=[False, True, True])
    model: nn.Module = _deeplabv3_resnet(backbone, 7, aux=True)
    return model


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "alexnet": lambda: with_small_head(torchvision.models.alexnet, 256 * 36),
    "vgg16": lambda: with_small_head(torchvision.models.vgg16, 512 * 49),
    "vgg16_bn": lambda: with_small_head(torchvision.models.vgg16_bn, 512 * 49),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=7, init_weights=False),
    "inception_v3": lambda: torchvision.models.inception_v3(num_classes=7, init_weights=False, aux_logits=False),
    "deeplabv3_resnet50": lambda: segmentation("deeplabv3_resnet50"),
    "deeplabv3_shallow": shallow_deeplab,
    "fcn_resnet50": lambda: segmentation("fcn_resnet50"),
    "retinanet_backbone": lambda: resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    ),
    "ssdlite_backbone": lambda: (
        torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone
    ),
}

_EFFICIENT = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")
# Entry, middle and exit flow, each once.
XCEPTION: list[dict[str, Any]] = [
    {"in_chs": 64, "out_chs": 96, "stride": 2},
    {"in_chs": 96, "out_chs": 96, "stride": 1},
    {"in_chs": 96, "out_chs": 96, "stride": 1},
    {"in_chs": 96, "out_chs": (96, 128, 128), "stride": 2},
    {"in_chs": 128, "out_chs": (160, 160, 192), "no_skip": True, "stride": 1},
]
CASES = [
    Case("torchvision/resnet18", 17, 17),
    Case("torchvision/resnet50", 17, 17, slow=True),
    Case("torchvision/resnext50_32x4d", 17, 17, slow=True),
    Case("torchvision/wide_resnet50_2", 17, 17, 32, slow=True),
    Case("torchvision/densenet121", 59, 1, slow=True, norms=62),
    Case("torchvision/alexnet", 5, 0),
    Case("torchvision/vgg16", 13, 0, 32, slow=True),
    Case("torchvision/vgg16_bn", 13, 13, 32, slow=True),
    Case("torchvision/squeezenet1_0", 9, 0),
    Case("torchvision/googlenet", 20, 20),
    Case("torchvision/inception_v3", 20, 20, 80, slow=True),
    Case("torchvision/mobilenet_v2", 18, 18, slow=True),
    Case("torchvision/mobilenet_v3_small", 12, 12),
    Case("torchvision/efficientnet_b0", 17, 17),
    Case("torchvision/mnasnet0_5", 18, 18, slow=True),
    Case("torchvision/regnet_y_400mf", 17, 17),
    Case("torchvision/shufflenet_v2_x0_5", 20, 20),
    Case("torchvision/convnext_tiny", 18, 0),
    Case("torchvision/deeplabv3_resnet50", 22, 22, 32, slow=True),
    Case("torchvision/deeplabv3_shallow", 12, 12, 32),
    Case("torchvision/fcn_resnet50", 19, 19, 32, slow=True),
    Case("torchvision/retinanet_backbone", 21, 17),
    Case("torchvision/ssdlite_backbone", 20, 20, slow=True),
    Case("timm/resnet50d", 19, 19, slow=True),
    Case("timm/seresnet18", 17, 17, dtype=torch.float64, slow=True),
    Case("timm/resnetv2_18", 9, 4, norms=5, options={"layers": [1, 1, 1, 1]}),
    Case("timm/resnetv2_50", 17, 16, norms=17, slow=True),
    Case("timm/efficientnet_lite0", 17, 17, slow=True),
    Case("timm/efficientnetv2_rw_t", 40, 40, dtype=torch.float64, slow=True, tolerance=1e-5),
    Case("timm/hrnet_w18_small", 65, 65, slow=True),
    Case("timm/res2net50_14w_8s", 113, 113, slow=True),
    Case("timm/dla46_c", 15, 15),
    Case("timm/ghostnet_050", 42, 42, slow=True),
    Case("timm/repvgg_a0", 22, 22, 32, slow=True),
    Case("byob/repvgg_a0", 8, 8, 32),
    Case("timm/mobileone_s0", 85, 85, 32, slow=True),
    Case("timm/rexnetr_100", 17, 17, slow=True),
    Case("timm/legacy_xception", 36, 2, slow=True),
    Case(
        "timm/xception41p",
        17,
        2,
        stock="blocks.4.stack.conv3.conv_dw",
        undecided="blocks.4.norm",
        norms=4,
        options={"block_cfg": XCEPTION},
    ),
    Case("timm/cspdarknet53", 29, 29, 32, slow=True),
    Case("timm/skresnet18", 13, 13, options={"layers": [1, 1, 1, 1]}),
    Case("timm/dpn48b", 6, 6, norms=10, options={"k_sec": (1, 1, 2, 1)}),
    Case("timm/mixnet_s", 13, 4, parts=_EFFICIENT[:-1]),
    Case("timm/lcnet_035", 8, 8, parts=_EFFICIENT),
    Case("timm/levit_128s", 4, 4, 224),
    Case("timm/ese_vovnet19b_slim", 15, 15, dtype=torch.float64),
    Case("timm/inception_next_atto", 4, 0, parts=("stem", "stages.0", "stages.1")),
    Case("timm/fbnetv3_b", 30, 30, dtype=torch.float64, slow=True),
    Case("timm/test_byobnet", 6, 6),
    Case("timm/repghostnet_050", 19, 19, parts=(*_EFFICIENT, "blocks.4", "blocks.5")),
    Case("timm/tf_efficientnet_lite0", 5, 5, parts=_EFFICIENT),
    Case("timm/resnetv2_50d_frn", 19, 0, dtype=torch.float64, stock="stem.conv1", slow=True),
    Case("timm/ghostnetv3_050", 114, 114, slow=True),
    Case("timm/darknetaa53", 24, 24, slow=True),
    Case("timm/densenet121", 59, 1, slow=True, norms=62),
    Case("torchvision/efficientnet_v2_s", 41, 41, dtype=torch.float64, slow=True),
]
NOTHING_TO_CONVERT = {
    "timm/vit_tiny_patch16_224": "1 × even kernel 16×16",
    "timm/nfnet_l0": "53 × 1×1 kernel, 28 × ScaledStdConv2d has a forward of its own",
    "timm/mixer_s32_224": "1 × even kernel 32×32",
}


def train_a_step(model: nn.Module, x: Tensor) -> None:
    """A step on random targets: afterwards statistics and parameters are no longer those of any initialisation."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    loss = sum(((y - torch.randn_like(y)) ** 2).mean() for y in tree_leaves(model(x)))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    model.eval()


def warns_of(norm: str) -> AbstractContextManager[object]:
    return (
        pytest.warns(UserWarning, match=f"`{re.escape(norm)}` is not fused: .* decides in line")
        if norm
        else nullcontext()
    )


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.slow else []) for c in CASES]
)
def test_architecture(case: Case, randomise: Randomise, difference: Difference) -> None:
    torch.manual_seed(0)
    tolerance = case.tolerance or (1e-5 if case.dtype is torch.float32 else 1e-11)
    x = torch.randn(2, 3, case.size, case.size, dtype=case.dtype)
    model = randomise(case.build()).eval()

    preserved = convert_to_acnet(model, init="preserve")
    assert difference(model, preserved, x) <= tolerance
    plain = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    eligible = [
        conv.kernel_size
        for conv in plain
        if type(conv).forward is nn.Conv2d.forward and conv.kernel_size in {(3, 3), (5, 5), (7, 7), (9, 9), (11, 11)}
    ]
    report = conversion_report(preserved)
    assert len(report.converted) == case.converted == len(eligible)
    assert sum(layer.norm is not None for layer in report.converted) == case.with_norm
    assert len(report.layers) == len(plain)
    assert all(layer.reason for layer in report.layers if layer.norm is None)

    acnet = randomise(preserved)  # a second conversion would take as long as all the rest
    train_a_step(acnet, x)
    with warns_of(case.undecided):
        fused = fuse_model(acnet)
    assert not any(isinstance(module, ACBlock) for module in fused.modules())
    assert count_norms(fused) == case.norms
    found = difference(acnet, fused, x)
    assert math.isfinite(found)
    assert found <= tolerance

    if case.stock:
        with pytest.raises(FusionError, match=rf"`{case.stock}`.*Use fuse_model"):
            stock_state_dict(acnet)
    else:
        model.load_state_dict(stock_state_dict(acnet))
        assert difference(acnet, model, x) <= tolerance


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", NOTHING_TO_CONVERT)
def test_architecture_with_nothing_to_convert(name: str) -> None:
    model: Any = Case(name, 0, 0).build()
    with pytest.raises(ValueError, match="nothing to convert") as caught:
        convert_to_acnet(model)
    assert NOTHING_TO_CONVERT[name] in str(caught.value)
