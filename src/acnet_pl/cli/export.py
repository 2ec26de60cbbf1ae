"""``python -m acnet_pl export CKPT``: the folded network of a checkpoint as a file for deployment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from rich.console import Console
from torch import Tensor, nn

from acnet_pl.backbones import Timm, Torchvision
from acnet_pl.cli.trained import image_size_of, load_trained
from acnet_pl.config.parser import Parser
from acnet_pl.data.augment import normalize
from acnet_pl.data.errors import DataError
from acnet_pl.deploy import fused_info, load_fused
from acnet_pl.export import export_model
from acnet_pl.export.exporting import FormatName
from acnet_pl.modules.architecture import build_network, describe
from acnet_pl.nn import PlainConv

__all__ = ["export", "run"]

_FILES: dict[FormatName, str] = {
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
    "safetensors": "model.safetensors",
    "stock": "stock.safetensors",
}
_USE: dict[FormatName, str] = {
    "onnx": "onnxruntime.InferenceSession({path!r})",
    "torch_export": "torch.export.load({path!r}).module()",
    "safetensors": "acnet_pl.load_fused({path!r})",
    "stock": "model.load_state_dict(safetensors.torch.load_file({path!r}))",
}
_IMAGES = (".jpg", ".jpeg", ".png")
_MOST_IMAGES = 256


def export(
    checkpoint: Path,
    format: FormatName = "onnx",
    output: Path | None = None,
    image_size: int | None = None,
    batch_size: int = 1,
    dynamic_batch: bool = False,
    images: Path | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Fold the network of a checkpoint, write it for deployment, and verify the file against the trained network.

    Args:
        checkpoint: A checkpoint that a run wrote, or a fused.safetensors (of which there is no stock format).
        format: onnx, torch_export (a .pt2), safetensors (folded weights), or stock (weights for the architecture
            without asymmetric blocks, such as torchvision's own).
        output: File to write; the default is model.onnx, model.pt2, model.safetensors or stock.safetensors in the
            run's folder.
        image_size: Height and width of the images; the default is what the run's fused.safetensors says.
        batch_size: Images that onnx and torch_export files take at once.
        dynamic_batch: Have them take any number of images.
        images: Folder of real images, at any depth, to verify the file with besides random ones.
        tolerance: Largest difference allowed between the outputs of trained network and file, relative to the largest.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` (={batch_size}) must be at least 1")
    network, info, folder = _load(checkpoint, format)
    preprocessing = info.get("preprocessing") or {}
    size = image_size or image_size_of(info)
    if size is None or size < 1:
        raise ValueError(
            f"{checkpoint} does not say how large its images are, nor does a fused.safetensors in {folder}; give "
            "--image_size"
        )
    example = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(1))
    stock = _stock(info) if format == "stock" else None
    if isinstance(network, (Torchvision, Timm)) and format == "stock":
        network = network.model
    written = export_model(
        network,
        output or folder / _FILES[format],
        format,
        example_input=example,
        dynamic_batch=dynamic_batch,
        stock=stock,
        batches=() if images is None else _real_images(images, size, preprocessing),
        tolerance=tolerance,
        info=None if format == "stock" else info,
    )
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(f"{format} file vs the network of {checkpoint.name}: {written.verification}")
    console.print(f"Wrote {written.path}; load it with {_USE[format].format(path=str(written.path))}")


def run(args: Sequence[str]) -> None:
    """Parse the options, written with dashes or underscores, and export."""
    options = [_with_underscores(argument) if argument.startswith("--") else argument for argument in args[1:]]
    for index, option in enumerate(options):
        if option == "--dynamic_batch" and options[index + 1 : index + 2] not in (["true"], ["false"]):
            options[index] = "--dynamic_batch=true"
    auto_cli(export, args=options, as_positional=True, prog="python -m acnet_pl export", parser_class=Parser)


def _with_underscores(option: str) -> str:
    name, equals, value = option[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _load(checkpoint: Path, format: FormatName) -> tuple[nn.Module, dict[str, Any], Path]:
    """The network, what it was built from and what is known of its images, and the run's folder."""
    if checkpoint.suffix == ".safetensors":
        info = fused_info(checkpoint)
        if format == "stock":
            raise ValueError(
                f"{checkpoint} is folded: its batch norms, which the stock architecture has, are gone; give the run's "
                "checkpoint (checkpoints/last.ckpt)"
            )
        return load_fused(checkpoint), info, checkpoint.parent
    return load_trained(checkpoint)


def _stock(info: dict[str, Any]) -> nn.Module:
    """The architecture without blocks: a backbone with plain convolutions, or the network of a package."""
    stock = build_network(info["backbone"], describe(PlainConv()), info["num_classes"])
    return stock.model if isinstance(stock, (Torchvision, Timm)) else stock


def _real_images(folder: Path, size: int, preprocessing: dict[str, Any]) -> list[Tensor]:
    """Up to 256 images of a folder, evenly chosen, scaled to the size and normalised."""
    from PIL import Image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(_IMAGES)}); give another --images, or leave it out")
    pixels = []
    for path in paths[:: -(-len(paths) // _MOST_IMAGES)]:
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                scaled = image.convert("RGB").resize((size, size))
        except Exception as error:  # a decoder may fail in any way on a corrupt file
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
        pixels.append(torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8).view(size, size, 3))
    mean, std = preprocessing.get("mean") or [0.5] * 3, preprocessing.get("std") or [0.25] * 3
    return [normalize(torch.stack(pixels), mean, std)]
