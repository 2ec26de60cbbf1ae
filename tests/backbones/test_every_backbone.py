"""What holds for every backbone. A new one is found through `backbones.__all__` and needs no change here."""

import ast
import importlib
import inspect
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl import backbones
from acnet_pl.backbones import densenet
from acnet_pl.backbones._checks import ImageSize
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, explicit_branches, fuse_model

FOLDER = Path(backbones.__file__).parent
ZOOS = ("Torchvision", "Timm")  # other people's networks, see test_zoo_backbones.py
OTHERS = ("__init__", "_weights", "timm_zoo", "torchvision_zoo")
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in OTHERS)
ARCHITECTURES = [path for path in FILES if not path.stem.startswith("_")]
CLASSES: list[type[nn.Module]] = [getattr(backbones, name) for name in backbones.__all__ if name not in ZOOS]
# Less of the same, where the default is large: recipes train that.
SMALLER: dict[str, dict[str, Any]] = {
    "DenseNetCifar": {"depth": 22},
    "ResNetCifar": {"depth": 20},
    "WideResNet": {"width": 2},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "ResNetCifar-identity": {"shortcut": "identity", "depth": 20},
    "ResNet-50": {"depth": 50},
}
CASES = [pytest.param(cls, SMALLER.get(cls.__name__, {}), id=cls.__name__) for cls in CLASSES] + [
    pytest.param(getattr(backbones, name.split("-")[0]), options, id=name) for name, options in VARIANTS.items()
]
# Untrained deep networks without shortcuts carry a signal through random statistics only with the longer kernels.
BUILDERS: list[ConvBuilder] = [PlainConv("fan_out"), ACBConv(asymmetric_size=3, draw="fan_out")]
Net = Callable[..., nn.Module]


@cache
def image_size(cls: Net) -> int:
    """The smallest usual size of images that a backbone takes: tests are fast on small ones."""
    with torch.device("meta"):
        net = cls(PlainConv(), num_classes=2)
        for size in (32, 64, 96, 128, 224):
            try:
                net(torch.empty(2, 3, size, size))
            except ValueError:
                continue
            return size
    raise AssertionError(f"{cls} takes no usual image size")


@torch.no_grad()
def evaluate(net: nn.Module, images: Tensor) -> Tensor:
    """The logits, from the branches themselves and not from a kernel that is fused on the way."""
    with explicit_branches(net):
        logits: Tensor = net(images)
    return logits


def macs(net: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates, counted on the meta device."""
    with FlopCounterMode(display=False) as counter:
        net.to("meta")(images)
    return int(counter.get_total_flops()) // 2


def test_all_is_every_class_of_the_architecture_files() -> None:
    defined = []
    for path in ARCHITECTURES:
        module = importlib.import_module(f"acnet_pl.backbones.{path.stem}")
        defined += [getattr(module, name) for name in module.__all__]
    assert set(defined) == set(CLASSES)
    assert len(defined) == len(ARCHITECTURES), "one architecture per file"


@pytest.mark.parametrize("cls", CLASSES)
def test_signature_is_what_yaml_needs(cls: type[nn.Module]) -> None:
    parameters = list(inspect.signature(cls).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["conv", "num_classes"]
    assert all(parameter.default is not parameter.empty for parameter in parameters[2:])
    hints = typing.get_type_hints(cls.__init__)
    assert hints["conv"] is ConvBuilder
    assert all(parameter.name in hints for parameter in parameters)
    assert cls.__doc__ is not None
    assert all(f"    {parameter.name}: " in cls.__doc__ for parameter in parameters), "options are documented"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_backbones_know_the_builder_and_no_block(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {name for name in imported if name.startswith("acnet_pl")}
    assert ours <= {"acnet_pl.nn", "acnet_pl.backbones._checks", "acnet_pl.backbones._linear"}
    assert {name.split(".")[0] for name in imported - ours} <= {"__future__", "collections", "typing", "torch"}
    assert "ACB" not in source


@pytest.mark.parametrize("cls", CLASSES)
def test_no_classes_is_an_error(cls: Net) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"`num_classes` \(=0\) must be at least 1"):
        cls(PlainConv(), num_classes=0)


@pytest.mark.parametrize("conv", BUILDERS, ids=lambda conv: type(conv).__name__)
@pytest.mark.parametrize("cls", CLASSES)
def test_every_parameter_is_trained(cls: Net, conv: ConvBuilder) -> None:
    torch.manual_seed(0)
    size = image_size(cls)
    net = cls(conv, num_classes=3, **SMALLER.get(cls.__name__, {})).train()
    loss = nn.functional.cross_entropy(net(torch.randn(4, 3, size, size)), torch.tensor([0, 1, 2, 0]))
    torch.autograd.backward(loss)
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []


@pytest.mark.parametrize("cls", CLASSES)
def test_fan_out_draw_reaches_every_layer(cls: Net) -> None:
    torch.manual_seed(0)
    net = cls(PlainConv("fan_out"), num_classes=1000)
    *hidden, last = (module for module in net.modules() if isinstance(module, nn.Linear))
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
    for layer in hidden:
        assert layer.weight.std().item() == pytest.approx((2 / layer.out_features) ** 0.5, rel=0.05)
    assert not any(layer.bias.any() for layer in (*hidden, last))
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_a_plain_network_and_its_acnet_fuse_to_what_they_were_and_to_one_structure(
    cls: Net,
    options: dict[str, Any],
    randomised: Callable[[nn.Module, Tensor], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(densenet._GROWTH_AND_LAYERS, 121, (8, (3, 3, 3, 3)))  # less of the same
    size = image_size(cls)
    structures, costs = [], []
    for conv in BUILDERS:
        torch.manual_seed(0)
        net = cls(conv, num_classes=10, **options)
        images = torch.randn(4, 3, size, size)
        randomised(net, images)
        trained = evaluate(net, images)
        assert trained.shape == (4, 10)
        exact = evaluate(net.double(), images.double())
        scale = exact.abs().max()
        assert exact.std(0).max() > 1e-2 * scale, "the logits depend on the images"
        fused = fuse_model(net)
        assert (evaluate(fused, images.double()) - exact).abs().max() <= 1e-12 * scale
        # In float32 fusing adds no more than the rounding that the trained net, deep and with random kernels, has.
        rounding = max((trained - exact).abs().max(), 1e-6 * scale)
        assert (evaluate(fused.float(), images) - exact).abs().max() <= 4 * rounding
        structures.append([(name, tensor.shape) for name, tensor in fused.state_dict().items()])
        costs.append(macs(fused, images.to("meta")))
    assert structures[0] == structures[1]
    assert costs[0] == costs[1]
    with explicit_branches(net):
        assert macs(net.float(), images.to("meta")) > 1.1 * costs[1]


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_can_be_traced_symbolically(cls: Net, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    size = image_size(cls)
    net = cls(PlainConv(), num_classes=4, **options).eval()
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(torch.fx.symbolic_trace(net)(images), net(images))


@pytest.mark.parametrize("cls", CLASSES)
def test_image_sizes_that_do_not_fit_are_a_readable_error(cls: Net) -> None:
    with torch.device("meta"):
        net = cls(PlainConv(), num_classes=2).eval()
        checks = [module for module in net.modules() if isinstance(module, ImageSize)]
        if not checks:
            assert net(torch.empty(1, 3, 1, 1)).shape == (1, 2)
        for check in checks:
            size, larger = check.smallest, check.largest or check.smallest + 5
            assert net(torch.empty(1, 3, size, larger)).shape == (1, 2)
            wrong = [(size - 1, larger), (larger, size - 1)]
            if check.largest is not None:
                wrong += [(size, larger + 1), (larger + 1, size)]
            for height, width in wrong:
                with pytest.raises(ValueError, match=rf"^{cls.__name__} takes .* got {height}×{width}: .*; resize"):
                    net(torch.empty(1, 3, height, width))


@pytest.mark.parametrize("cls", CLASSES)
def test_no_image_size_is_refused_that_the_layers_could_take(cls: Net) -> None:
    with torch.device("meta"):
        net = cls(PlainConv(), num_classes=2).eval()
        for check in [module for module in net.modules() if isinstance(module, ImageSize) and module.largest is None]:
            too_small, check.smallest = check.smallest - 1, 1
            with pytest.raises(RuntimeError, match="Output size is too small"):
                net(torch.empty(1, 3, too_small, too_small))
