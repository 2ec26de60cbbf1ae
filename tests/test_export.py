"""Exported files, run by their own runtimes, against the trained network in float64."""

import copy
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.resnet import BasicBlock, ResNet

from acnet_pl.backbones import (
    VGG16,
    AlexNet,
    CifarQuick,
    DenseNet,
    DenseNetCifar,
    ResNetCifar,
    Timm,
    Torchvision,
    WideResNet,
    densenet,
)
from acnet_pl.backbones import ResNet as ImageNetResNet
from acnet_pl.deploy import load_fused, save_fused
from acnet_pl.export import ExportError, export_model, stock_weights
from acnet_pl.export.capturing import capturing
from acnet_pl.export.formats import _output_names
from acnet_pl.export.verification import tensors_in, verify
from acnet_pl.nn import ACBConv, ConvBuilder, FusionError, PlainConv, convert_to_acnet, explicit_branches, fuse_model
from acnet_pl.nn.surgery.late import fuse_block, output_moments
from acnet_pl.nn.surgery.replacing import replace_modules


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, every batch norm with statistics, γ and β of its own, so that none is nearly the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return model.eval()


def small_resnet() -> nn.Module:
    model: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7)
    return model


def in_float64(model: nn.Module, images: Tensor) -> Tensor:
    """What the model computes, branch by branch, in float64."""
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad(), explicit_branches(exact):
        output: Tensor = exact(images.double())
    return output


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted).abs().max() / wanted.abs().max()).item()


def run_onnx(path: Path, images: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def run_program(path: Path, images: Tensor) -> list[Tensor]:
    return tensors_in(torch.export.load(path).module()(images))


RUNTIMES: dict[str, Callable[[Path, Tensor], list[Tensor]]] = {"onnx": run_onnx, "torch_export": run_program}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "own": lambda: randomised(CifarQuick(ACBConv(), 10)),
    "converted": lambda: randomised(convert_to_acnet(small_resnet())),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("format", RUNTIMES)
def test_a_file_computes_what_the_network_does_for_any_number_of_images(
    network: str, format: str, tmp_path: Path
) -> None:
    model = NETWORKS[network]()
    example = torch.randn(1, 3, 32, 32)
    export = export_model(model, tmp_path / "net.pt2", format, example_input=example, dynamic_batch=True)  # type: ignore[arg-type]
    assert export.verification.within(1e-5)
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        (output,) = RUNTIMES[format](export.path, images)
        assert relative_difference(output, in_float64(model, images)) < 1e-5


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_file_of_fixed_batch_takes_that_one_alone_and_is_verified_on_all_images(format: str, tmp_path: Path) -> None:
    model = NETWORKS["own"]()
    real: list[Tensor | tuple[Tensor, Tensor]] = [
        torch.randn(3, 3, 32, 32),
        (torch.randn(4, 3, 32, 32), torch.zeros(4)),
    ]
    export = export_model(
        model,
        tmp_path / "net.pt2",
        format,  # type: ignore[arg-type]
        example_input=torch.randn(2, 3, 32, 32),
        batches=real,
    )
    assert export.verification.images == 2 + 8 + 2 + 4 + 4  # example, random, one random and 3 real filled up, 4 real
    assert RUNTIMES[format](export.path, torch.randn(2, 3, 32, 32))[0].shape == (2, 10)
    with pytest.raises(Exception, match=r"(?i)batch|dim|shape|size"):
        RUNTIMES[format](export.path, torch.randn(3, 3, 32, 32))


@pytest.mark.parametrize("format", RUNTIMES)
def test_the_exported_network_is_the_fused_one(format: str, tmp_path: Path) -> None:
    path = export_model(
        NETWORKS["own"](),
        tmp_path / "net.pt2",
        format,  # type: ignore[arg-type]
        example_input=torch.randn(1, 3, 32, 32),
    ).path
    if format == "onnx":
        import onnx

        operations = [node.op_type for node in onnx.load(path).graph.node]
        assert operations.count("Conv") == 3
        assert "BatchNormalization" not in operations
    else:
        targets = [str(node.target) for node in torch.export.load(path).graph.nodes]
        assert sum("conv2d" in target for target in targets) == 3
        assert not any("batch_norm" in target for target in targets)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.conv(images))
        return {"out": features, "mean": features.mean((2, 3))}


@pytest.mark.parametrize("format", RUNTIMES)
def test_networks_with_several_outputs(format: str, tmp_path: Path) -> None:
    model = randomised(convert_to_acnet(TwoOutputs()))
    images = torch.randn(2, 3, 8, 8)
    export = export_model(model, tmp_path / "net.pt2", format, example_input=images)  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = model(images)
    got = RUNTIMES[format](export.path, images)
    assert len(got) == 2
    if format == "onnx":
        assert [output.name for output in onnx.load(export.path).graph.output] == ["out", "mean"]
    for tensor, key in zip(got, ("out", "mean"), strict=True):
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-4, atol=1e-5)


def test_outputs_of_onnx_are_named_after_their_places() -> None:
    one, two = torch.zeros(2)
    assert _output_names(one) == ["output"]
    assert _output_names((one, {"a": two})) == ["output.0", "output.1.a"]
    for odd in ((one, one), {"images": one}, {"a": {"b": one}, "a.b": two}, None):  # left to the exporter
        assert _output_names(odd) is None


def test_fused_weights_load_into_the_fused_network(tmp_path: Path) -> None:
    model = NETWORKS["converted"]()
    path = export_model(
        model, tmp_path / "net.safetensors", "safetensors", example_input=torch.randn(2, 3, 64, 64)
    ).path
    other = fuse_model(randomised(convert_to_acnet(small_resnet()), seed=1))
    other.load_state_dict(load_file(path), strict=True)
    images = torch.randn(3, 3, 64, 64)
    assert relative_difference(other(images), in_float64(model, images)) < 1e-5
    assert relative_difference(load_fused(path, into=small_resnet())(images), in_float64(model, images)) < 1e-5


def test_weights_of_a_module_under_two_names_are_written_for_both(tmp_path: Path) -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared).eval()
    path = export_model(model, tmp_path / "net.safetensors", "safetensors", example_input=torch.randn(1, 3, 8, 8)).path
    assert load_file(path).keys() == model.state_dict().keys()


BACKBONES: dict[str, Callable[[ConvBuilder], nn.Module]] = {
    "CifarQuick": lambda conv: CifarQuick(conv, 10),
    "VGG16": lambda conv: VGG16(conv, 10),
    "ResNetCifar": lambda conv: ResNetCifar(conv, 10, depth=8),
    "ResNetCifar, identity": lambda conv: ResNetCifar(conv, 10, depth=8, shortcut="identity"),
    "WideResNet": lambda conv: WideResNet(conv, 10, depth=10, width=1),  # pre-activation: biases move on
    "DenseNetCifar": lambda conv: DenseNetCifar(conv, 10, depth=10),  # likewise, through concatenations
    "ResNet": lambda conv: ImageNetResNet(conv, 10, depth=18),
    "DenseNet": lambda conv: DenseNet(conv, 10),
    "AlexNet": lambda conv: AlexNet(conv, 10),
}
SIDES = {"AlexNet": 96}
BLOCKS = {"acb": ACBConv(gamma_init=0.5), "norm after sum": ACBConv(branch_norm=False), "plain": PlainConv()}


@pytest.mark.parametrize(
    ("backbone", "block"),
    [(backbone, "acb") for backbone in BACKBONES]
    + [
        (backbone, block)
        for backbone in ("CifarQuick", "WideResNet", "DenseNetCifar")
        for block in ("norm after sum", "plain")
    ],
)
def test_a_backbone_of_blocks_loads_into_the_plain_backbone(
    backbone: str, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(densenet._GROWTH_AND_LAYERS, 121, (8, (2, 2, 2, 2)))
    torch.manual_seed(0)
    network = randomised(BACKBONES[backbone](BLOCKS[block])).double()
    stock = randomised(BACKBONES[backbone](PlainConv()), seed=1).double()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    stock.load_state_dict(stock_weights(network, stock), strict=True)
    images = torch.randn(2, 3, SIDES.get(backbone, 32), SIDES.get(backbone, 32), dtype=torch.float64)
    assert relative_difference(stock(images), in_float64(network, images)) < 1e-10
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_stock_weights_of_a_converted_network(tmp_path: Path) -> None:
    model = randomised(convert_to_acnet(MobileNetV2(num_classes=5, width_mult=0.25)))
    stock = MobileNetV2(num_classes=5, width_mult=0.25)
    before = {key: value.clone() for key, value in stock.state_dict().items()}
    export = export_model(
        model, tmp_path / "stock.safetensors", "stock", example_input=torch.randn(2, 3, 32, 32), stock=stock
    )
    assert all(torch.equal(before[key], value) for key, value in stock.state_dict().items())
    stock.load_state_dict(load_file(export.path), strict=True)
    images = torch.randn(3, 3, 32, 32)
    assert relative_difference(stock.eval()(images), in_float64(model, images)) < 1e-5


@pytest.mark.parametrize("backbone", [Torchvision, Timm])
@pytest.mark.parametrize("conv", [ACBConv(), PlainConv()], ids=repr)
def test_stock_weights_of_a_packages_network(
    backbone: type[Torchvision] | type[Timm], conv: ConvBuilder, tmp_path: Path
) -> None:
    network, stock = (randomised(backbone(kind, 10, name="resnet18")) for kind in (conv, PlainConv()))
    inner, inner_stock = network.get_submodule("model"), stock.get_submodule("model")
    export = export_model(
        inner, tmp_path / "stock", "stock", example_input=torch.randn(1, 3, 32, 32), stock=inner_stock
    )
    assert export.verification.within(1e-5)
    assert load_file(export.path).keys() == inner_stock.state_dict().keys()


@pytest.mark.parametrize("conv", [ACBConv(), ACBConv(branch_norm=False)], ids=["branch_norm", "norm_after_sum"])
def test_stock_weights_of_a_pre_activation_network_that_was_fused_late(conv: ConvBuilder) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = randomised(WideResNet(conv, 10, depth=10, width=1)).double()
    moments = output_moments(network, images)
    network = replace_modules(network, {block: fuse_block(block, moments[block]) for block in moments})
    randomised(network, seed=3)  # as training on does
    stock = randomised(WideResNet(PlainConv(), 10, depth=10, width=1), seed=1).double()
    stock.load_state_dict(stock_weights(network, stock), strict=True)
    with torch.no_grad():
        assert relative_difference(stock(images), network(images)) < 1e-10


def test_stock_weights_without_a_place_for_a_bias_are_refused(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten())

    model = randomised(convert_to_acnet(net()))
    with pytest.raises(FusionError, match="no place for the bias"):
        export_model(model, tmp_path / "net", "stock", example_input=torch.randn(1, 3, 8, 8), stock=net())
    assert list(tmp_path.iterdir()) == []


def test_stock_weights_of_another_or_a_fused_architecture_are_refused() -> None:
    stock = ResNetCifar(PlainConv(), 10, depth=8)
    with pytest.raises(ValueError, match=r"other convolutions: only one of them has `"):
        stock_weights(ResNetCifar(ACBConv(), 10, depth=14), stock)
    with pytest.raises(ValueError, match="fused already"):
        stock_weights(fuse_model(ResNetCifar(ACBConv(), 10, depth=8).eval()), stock)


class Noisy(nn.Module):
    """Computes something else at every call, so no file can be right."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.linear(torch.dropout(images.flatten(1), 0.5, True))
        return output


def test_a_file_that_computes_something_else_is_not_kept_and_an_older_one_stays(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("older")
    with pytest.raises(ExportError, match=r"does not compute what the network does.*tolerance 0.0001"):
        export_model(Noisy(), tmp_path / "net", "torch_export", example_input=torch.randn(1, 3, 2, 2))
    assert (tmp_path / "net").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


class Branching(nn.Module):
    """Takes one of two branches, by the values of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        if features.mean() > 0:
            return 2 * features
        return features


class Counting(Branching):
    """Takes one of two branches, by the number of its images, one that no check would think of."""

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        return 2 * features if images.shape[0] == 4 else features


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_branch_on_the_number_of_images_is_in_no_file_for_any_number(format: str, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    model = randomised(Counting())
    with pytest.raises(ExportError, match=r"depends on the number of images.*\(without --dynamic_batch"):
        export_model(model, tmp_path / "net", format, example_input=images, dynamic_batch=True)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    assert export_model(model, tmp_path / "net", format, example_input=images).verification.images  # type: ignore[arg-type]


class Choosing(Branching):
    """Computes both branches."""

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        return torch.where(features.mean() > 0, 2 * features, features)


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_branch_on_data_is_refused_with_its_line_and_other_ways(
    format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = torch.randn(1, 3, 8, 8)
    model = randomised(convert_to_acnet(Branching(), images))
    line = rf"\(line \d+ of {re.escape(__file__)}: `if features\.mean\(\) > 0:`\)"
    with pytest.raises(ExportError, match=rf"depends on the values of its data {line}.* torch\.where") as refused:
        export_model(model, tmp_path / "net", format, example_input=images)  # type: ignore[arg-type]
    assert type(refused.value.__cause__).__name__ == "GuardOnDataDependentSymNode"
    assert len(str(refused.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    path = save_fused(fuse_model(model, images), tmp_path / "net.safetensors", inputs=images)
    assert relative_difference(load_fused(path, into=Branching())(images), in_float64(model, images)) < 1e-5
    model = randomised(convert_to_acnet(Choosing(), images))
    assert export_model(model, tmp_path / "net", format, example_input=images).verification.images == 10  # type: ignore[arg-type]


def test_what_torch_prints_before_another_error_stays(capsys: pytest.CaptureFixture[str]) -> None:
    @capturing()
    def fail() -> None:
        print("the graph", file=sys.stderr)
        logging.getLogger("torch.export._trace").error("a message")
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        fail()
    assert capsys.readouterr().err == "the graph\na message\n"


def test_nan_is_no_agreement(tmp_path: Path) -> None:
    linear = nn.Linear(12, 3)
    nn.init.constant_(linear.bias, torch.nan)
    model = nn.Sequential(nn.Flatten(), linear).eval()
    with pytest.raises(ExportError, match="nan"):
        export_model(model, tmp_path / "net", "safetensors", example_input=torch.randn(1, 3, 2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_that_rounding_exceeds(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="tolerance 1e-30"):
        export_model(
            NETWORKS["own"](), tmp_path / "n", "safetensors", example_input=torch.randn(1, 3, 32, 32), tolerance=1e-30
        )


def test_verification_measures_the_largest_difference_of_each_output() -> None:
    network = nn.Identity()
    images = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)
    result = verify(network, lambda x: [x + (x == 4) * 0.5], [images, images[:1]])
    assert (result.images, result.max_abs_difference, result.max_rel_difference) == (3, 0.5, 0.125)
    assert verify(network, lambda x: [x * 0], [images * 0]).max_rel_difference == 0
    with pytest.raises(ValueError, match="outputs of shapes"):
        verify(network, lambda x: [x[0]], [images])
    with pytest.raises(ValueError, match="no images"):
        verify(network, lambda x: [x], [])


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = NETWORKS["own"]().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, tmp_path / "net", "safetensors", example_input=torch.randn(1, 3, 32, 32))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_information_is_kept_in_the_file(tmp_path: Path) -> None:

    info = {"preprocessing": {"mean": [0.5]}}
    for format in RUNTIMES:
        export_model(
            NETWORKS["own"](),
            tmp_path / f"{format}.pt2",
            format,  # type: ignore[arg-type]
            example_input=torch.randn(1, 3, 32, 32),
            info=info,
        )
    (entry,) = onnx.load(tmp_path / "onnx.pt2").metadata_props
    assert json.loads(entry.value) == info
    extra = {"acnet_pl.json": ""}
    torch.export.load(tmp_path / "torch_export.pt2", extra_files=extra)
    assert json.loads(extra["acnet_pl.json"]) == info


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acnet_pl.export.formats.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime: pip install 'acnet-pl\[export\]'"):
        export_model(nn.Identity(), tmp_path / "net", "onnx", example_input=torch.randn(1, 3, 2, 2))
    assert list(tmp_path.iterdir()) == []


def test_arguments_out_of_range(tmp_path: Path) -> None:
    images = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"`format` \(='tflite'\) must be one of 'onnx'"):
        export_model(nn.Identity(), tmp_path / "n", "tflite", example_input=images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="format='stock' needs `stock`"):
        export_model(nn.Identity(), tmp_path / "n", "stock", example_input=images)
    with pytest.raises(ValueError, match="`stock` is for format='stock', got format='onnx'"):
        export_model(nn.Identity(), tmp_path / "n", "onnx", example_input=images, stock=nn.Identity())
    with pytest.raises(ValueError, match=r"must be images \(N, C, H, W\), got \(3, 8, 8\)"):
        export_model(nn.Identity(), tmp_path / "n", "onnx", example_input=images[0])
