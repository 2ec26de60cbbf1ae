"""Torchvision's and timm's networks as backbones."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from acnet_pl.backbones import Timm, Torchvision
from acnet_pl.nn import (
    ACBConv,
    ACBlock,
    ConvBuilder,
    PlainConv,
    conversion_report,
    explicit_branches,
    fuse_model,
    stock_state_dict,
)

SMALL: list[tuple[type[nn.Module], str]] = [(Torchvision, "mobilenet_v3_small"), (Timm, "test_byobnet")]
IDS = ["torchvision", "timm"]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def stock(cls: type[nn.Module], name: str, num_classes: int = 5) -> nn.Module:
    model: nn.Module
    if cls is Torchvision:
        model = torchvision.models.get_model(name, num_classes=num_classes)
    else:
        model = timm.create_model(name, num_classes=num_classes)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    with explicit_branches(model):
        out: Tensor = model.eval()(IMAGES)
    return out


def relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("cls", "name"), SMALL, ids=IDS)
def test_builder_decides_on_the_convolutions_and_both_deploy_to_one_structure(cls: Any, name: str) -> None:
    structures = []
    for conv in (PlainConv(), ACBConv()):
        torch.manual_seed(0)
        net = cls(conv, num_classes=5, name=name)
        blocks = [module for module in net.modules() if isinstance(module, ACBlock)]
        assert len(conversion_report(net).converted) == len(blocks)
        assert bool(blocks) == isinstance(conv, ACBConv)
        net.train()
        loss = nn.functional.cross_entropy(net(IMAGES), torch.tensor([0, 4]))
        torch.autograd.backward(loss)
        assert all(parameter.grad is not None for parameter in net.parameters())
        fused = fuse_model(net.eval())
        assert relative(logits(fused), logits(net)) <= 1e-5
        structures.append((repr(fused), [value.shape for value in fused.state_dict().values()]))
    assert structures[0] == structures[1]


@pytest.mark.parametrize(
    ("cls", "name", "kind", "conv"),
    [(*SMALL[0], "safetensors", ACBConv()), (*SMALL[1], "pth", PlainConv()), (*SMALL[0], "nested", ACBConv())],
    ids=["safetensors", "pth", "nested"],
)
def test_weights_from_a_file_are_the_function_to_begin_with(
    cls: Any, name: str, kind: str, conv: ConvBuilder, tmp_path: Path
) -> None:
    model = stock(cls, name)
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": model.state_dict()} if kind == "nested" else model.state_dict(), path)
    net = cls(conv, num_classes=5, name=name, weights_file=str(path))
    assert relative(logits(net), logits(model)) <= 1e-5


@pytest.mark.parametrize(("cls", "name"), SMALL, ids=IDS)
def test_head_for_another_number_of_classes_begins_anew(
    cls: Any, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = stock(cls, name, num_classes=9)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    with caplog.at_level(logging.INFO):
        net = cls(PlainConv(), num_classes=5, name=name, weights_file=str(path))
    assert "begins anew" in caplog.text
    given = model.state_dict()
    other = [key for key, value in net.model.state_dict().items() if not torch.equal(value, given[key])]
    assert len(other) == 2
    assert all(given[key].shape[0] == 9 for key in other)


@pytest.mark.parametrize(("cls", "name"), SMALL, ids=IDS)
def test_trained_acnet_loads_into_the_stock_model(cls: Any, name: str) -> None:
    net = cls(ACBConv(), num_classes=5, name=name)
    net.train()(IMAGES)
    model = stock(cls, name)
    model.load_state_dict(stock_state_dict(net.model))
    assert relative(logits(model), logits(net)) <= 1e-5


def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    model = torchvision.models.googlenet(num_classes=5, aux_logits=True, init_weights=False)
    path = tmp_path / "googlenet.pth"
    torch.save(model.state_dict(), path)
    net = Torchvision(ACBConv(), num_classes=5, name="googlenet", weights_file=str(path))
    assert relative(logits(net), logits(model)) <= 1e-5
    assert net.train()(IMAGES).shape == (2, 5)


def test_selection_and_options_are_passed_on() -> None:
    net = Torchvision(
        ACBConv(), 5, include=["layer1", "layer2.*"], exclude=["layer1.0"], options={"zero_init_residual": True}
    )
    names = [layer.name for layer in conversion_report(net).converted]
    assert names == ["layer1.1.conv1", "layer1.1.conv2", *(f"layer2.{i}.conv{j}" for i in (0, 1) for j in (1, 2))]
    assert not net.get_parameter("model.layer1.1.conv2.square_norm.weight").any()
    report = conversion_report(Timm(ACBConv(), 5, "lcnet_035", kernel_sizes=[5], options={"drop_rate": 0.2}))
    assert {layer.layer[:3] for layer in report.converted} == {"5×5"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Torchvision(PlainConv(), 5, "resnet19"), r"`name` \(='resnet19'\) .* did you mean resnet18"),
        (lambda: Torchvision(PlainConv(), 5, "qqq"), "no classification network of torchvision; there are alexnet, "),
        (lambda: Torchvision(PlainConv(), 5, "fcn_resnet50"), "no classification network of torchvision"),
        (lambda: Timm(PlainConv(), 5, "resnet18e"), r"no network of timm .*did you mean .*resnet18"),
        (lambda: Timm(PlainConv(), 5, "hf-hub:timm/resnet18"), r"no network of timm"),
        (lambda: Timm(PlainConv(), 5, "test_byobnet", options={"pretrained": True}), "use `num_classes` and"),
        (lambda: Torchvision(ACBConv(), 5, "vit_b_32"), "nothing to convert"),
        (lambda: Torchvision(ACBConv(), 5, exclude=["layer5"]), "`exclude`: 'layer5' matches no Conv2d"),
        (lambda: Torchvision(PlainConv(), 0), r"`num_classes` \(=0\) must be at least 1"),
        (lambda: Timm(PlainConv(), 0), r"`num_classes` \(=0\) must be at least 1"),
        (lambda: Torchvision(PlainConv(), 5, weights_file="none.pth"), r"`weights_file` \(='none.pth'\) is no file"),
    ],
)  # fmt: skip
def test_errors(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "that can be read without running code"),
        ({"conv1.weight": Evil()}, "that can be read without running code"),
        ({"epoch": 3}, "it holds other things than tensors"),
        ([1, 2], "it holds other things than tensors"),
        ({1: torch.zeros(1)}, "it holds other things than tensors under their names"),
        ({"a": torch.zeros(1)}, "not of a ByobNet as it was built|not of a MobileNetV3 as it was built"),
        (b"", "that can be read without running code"),
        (b"garbage", "that can be read without running code"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights(
    content: Any, message: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif suffix == ".safetensors":
        path.write_bytes(b"\x00" * 64)
        message = "that can be read without running code"
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        Timm(PlainConv(), 5, "test_byobnet", weights_file=str(path))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("path", ["a" * 5000, "/proc/self/mem", "\0"])
def test_paths_that_cannot_be_read(path: str) -> None:
    with pytest.raises(ValueError, match=r"`weights_file` \(=.*(cannot be read|is no file)|embedded null"):
        Timm(PlainConv(), 5, "test_byobnet", weights_file=path)


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("stem.conv.weight", Tensor.to_sparse, r"of layout torch\.sparse_coo, expected torch\.strided"),
        ("stem.bn.running_var", Tensor.neg, "holds negative variances"),
        ("stem.bn.weight", lambda weight: weight / 0, "holds NaN or infinite values"),
    ],
)
def test_values_that_no_training_leaves_behind(name: str, spoil: Any, message: str, tmp_path: Path) -> None:
    model = timm.create_model("test_byobnet", num_classes=5)
    torch.save({**model.state_dict(), name: spoil(model.state_dict()[name])}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"holds no weights of a trained model: .*{message}"):
        Timm(PlainConv(), 5, "test_byobnet", weights_file=str(tmp_path / "weights.pth"))


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(ValueError, match=r"not of a ResNet as it was built: the file also has `layer1\.2\.bn1\.bias`"):
        Torchvision(PlainConv(), 1000, "resnet18", weights_file=str(path))
    torch.save(torchvision.models.wide_resnet50_2().state_dict(), path)
    with pytest.raises(ValueError, match=r"has in other shapes `layer1\.0\.bn1\.bias`"):
        Torchvision(PlainConv(), 1000, "resnet50", weights_file=str(path))


def test_importing_the_backbones_imports_neither_library() -> None:
    code = "import sys, acnet_pl.backbones; assert not {'timm', 'torchvision', 'safetensors'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_timm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'acnet-pl\[timm\]'"):
        Timm(PlainConv(), 5)
