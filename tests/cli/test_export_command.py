"""``python -m acnet_pl export`` on checkpoints and fused files."""

from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import nn

import acnet_pl
from acnet_pl.backbones import CifarQuick, ResNetCifar, Timm, Torchvision
from acnet_pl.checkpoint import load_network
from acnet_pl.cli import main
from acnet_pl.cli.trained import stock_constructor
from acnet_pl.deploy import save_fused
from acnet_pl.modules import ImageClassifier
from acnet_pl.modules.architecture import Factory, describe
from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, PlainConv, fuse_model

PREPROCESSING = {"image_shape": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "class_names": ["a", "b"]}


def write_checkpoint(folder: Path, backbone: Factory) -> Path:
    """A checkpoint of a run, its batch norms with statistics of their own."""
    module = ImageClassifier(backbone, ACBConv(), 4)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(module)
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, CifarQuick)


def write_fused(checkpoint: Path) -> Path:
    """The run's fused.safetensors, which says what its images are."""
    network, info = load_network(checkpoint)
    info["preprocessing"] = PREPROCESSING
    return save_fused(fuse_model(network), checkpoint.parent.parent / "fused.safetensors", info)


def test_onnx_with_dashes_and_any_batch(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    assert main(["export", str(checkpoint), "--format", "onnx", "--image-size", "32", "--dynamic-batch"]) == 0
    assert f"Wrote {tmp_path / 'model.onnx'} for any batch; load it with onnxruntime" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 32, 32)
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), load_network(checkpoint)[0](images), rtol=1e-4, atol=1e-5)


def test_the_batch_size_and_the_file_that_was_there_are_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(checkpoint), "--format", "torch_export", "--image-size", "32"]
    told = [(["--dynamic-batch"], " for any batch; "), ([], " for batches of 1 (replaced the file that was there); ")]
    for options, text in told:
        assert main([*command, *options]) == 0
        assert f"Wrote {tmp_path / 'model.pt2'}{text}load it with torch.export.load" in capsys.readouterr().out


def test_torch_export_to_another_file(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "net.pt2"
    assert main(["export", str(checkpoint), "--format=torch_export", "--image-size=32", f"--output={output}"]) == 0
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = load_network(checkpoint)[0](image)
        torch.testing.assert_close(torch.export.load(output).module()(image), wanted, rtol=1e-4, atol=1e-5)


def test_safetensors_keep_what_the_run_knows_of_its_images(checkpoint: Path, tmp_path: Path) -> None:
    write_fused(checkpoint)
    assert main(["export", str(checkpoint), "--format", "safetensors"]) == 0  # the image size is known too
    path = tmp_path / "model.safetensors"
    assert acnet_pl.fused_info(path)["preprocessing"] == PREPROCESSING
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = load_network(checkpoint)[0](images)
        torch.testing.assert_close(acnet_pl.load_fused(path)(images), wanted, rtol=1e-4, atol=1e-5)


def test_fusing_again_keeps_what_is_known_of_the_images(checkpoint: Path) -> None:
    path = write_fused(checkpoint)
    assert main(["fuse", str(checkpoint)]) == 0
    assert acnet_pl.fused_info(path)["preprocessing"] == PREPROCESSING
    assert acnet_pl.fused_info(path)["weights"] == "last.ckpt"


def test_a_fused_file_of_another_network_says_nothing(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = ResNetCifar(PlainConv(), 4, depth=8).eval()
    info = {"backbone": {"class_path": "acnet_pl.backbones.ResNetCifar"}, "conv": {}, "num_classes": 4}
    save_fused(fuse_model(network), checkpoint.parent.parent / "fused.safetensors", {**info, **PREPROCESSING})
    assert main(["export", str(checkpoint), "--format", "safetensors"]) == 1
    assert "give --image_size" in capsys.readouterr().err


def loaded_as_told(shown: str) -> nn.Module:
    """The stock model, by the code that the command has shown."""
    code = shown.split("load it with ")[1]
    names: dict[str, nn.Module] = {}
    exec(f"import acnet_pl, safetensors.torch, timm, torchvision; {code}", names)
    return names["model"].eval()


def test_stock_weights_load_into_the_plain_backbone(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--format", "stock", "--image-size", "32"]) == 0
    plain = loaded_as_told(capsys.readouterr().out)
    assert isinstance(plain, CifarQuick)
    assert not any(isinstance(module, ACBlock) for module in plain.modules())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), load_network(checkpoint)[0](images), rtol=1e-4, atol=1e-5)


def own(builder: ConvBuilder, classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(builder(3, width, 3), nn.Flatten(), nn.LazyLinear(classes))


def test_the_code_that_builds_a_network_of_ones_own() -> None:
    info = {"backbone": describe(partial(own, width=8)), "num_classes": 4}
    assert stock_constructor(info) == f"{own.__module__}.own(acnet_pl.PlainConv(), 4, width=8)"


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        (partial(Torchvision, name="squeezenet1_1"), "torchvision.models.squeezenet"),
        (partial(Timm, name="test_byobnet", options={"drop_rate": 0.1}), "timm.models.byobnet"),
    ],
)
def test_stock_weights_load_into_the_packages_network(
    backbone: Factory, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path, backbone)
    assert main(["export", str(checkpoint), "--format", "stock", "--image-size", "64"]) == 0
    stock = loaded_as_told(capsys.readouterr().out)
    assert type(stock).__module__ == kind
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(stock(images), load_network(checkpoint)[0](images), rtol=1e-4, atol=1e-4)


def test_a_fused_file_is_exported_but_for_stock(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fused = write_fused(checkpoint)
    assert main(["export", str(fused), "--format", "torch_export"]) == 0
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = acnet_pl.load_fused(fused)(image)
        torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(image), wanted)
    assert main(["export", str(fused), "--format", "stock"]) == 1
    assert "give the run's checkpoint" in capsys.readouterr().err


def test_real_images_are_normalised_and_compared(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fused(checkpoint)
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    for index in range(3):
        pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    command = ["export", str(checkpoint), "--format", "safetensors", "--images", str(tmp_path / "images")]
    assert main(command) == 0
    assert "on 13 images" in capsys.readouterr().out  # 1 example, 8 and 1 random, 3 real
    (folder / "3.png").write_bytes(b"no image")
    assert main(command) == 1
    assert "cannot be read as an image" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "checkpoints")]) == 1
    assert "holds no images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--format", "safetensors"], 1, "does not say how large its images are"),
        (["--image-size", "31"], 1, "CifarQuick takes 32×32 images"),
        (["--image-size", "32", "--batch-size", "0"], 2, "`batch_size` (=0) must be at least 1"),
        (["--image-size", "32", "--format", "safetensors", "--tolerance", "0"], 1, "was not kept"),
        (["--format", "tflite"], 2, "tflite"),
        (["--images", "no/where"], 2, "no/where: there is no such folder"),
        (["--output", "x.png"], 2, "--output x.png: the command writes .onnx files, and this name ends in .png; give"),
        (["--format", "torch_export", "--output", "x.onnx"], 2, "writes .pt2 files, and this name ends in .onnx"),
        (["--image-size", "0"], 2, "`image_size` (=0) must be from 1 to 4096 pixels"),
        (["--image-size", "100000"], 2, "`image_size` (=100000) must be from 1 to 4096 pixels"),
        (
            ["--image-size", "32", "--batch-size", str(10**12)],
            1,
            "1000000000000 images of 32 x 32 pixels take 12,288,0",
        ),
    ],
)
def test_mistakes_are_told_and_leave_no_file(
    options: list[str], code: int, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoint), *options]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("size", [-5, 0, 4097, 100_000, 2**62])
def test_fuse_takes_sizes_of_images_alone(size: int, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuse", str(checkpoint), "--image_size", str(size)]) == 2
    assert f"error: `image_size` (={size}) must be from 1 to 4096 pixels" in capsys.readouterr().err


def test_fuse_says_that_images_do_not_fit_into_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("acnet_pl.cli.random_images._memory", lambda: 4 * 8 * 3 * 32 * 32)
    assert main(["fuse", str(checkpoint), "--image_size", "32"]) == 0
    assert main(["fuse", str(checkpoint), "--image_size", "33"]) == 1
    assert "8 images of 33 x 33 pixels take 0.0 GB, and this machine has 0.0 GB" in capsys.readouterr().err


def test_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none.ckpt")]) == 2
    assert "none.ckpt: there is no such checkpoint" in capsys.readouterr().err
