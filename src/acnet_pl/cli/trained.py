"""Load the trained network behind a checkpoint, for `fuse` and `export`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl import backbones
from acnet_pl.backbones import Timm, Torchvision
from acnet_pl.checkpoint import load_network
from acnet_pl.data.augment import normalize
from acnet_pl.data.decoding import rgb_pixels
from acnet_pl.data.errors import DataError
from acnet_pl.deploy import fused_info, load_fused
from acnet_pl.modules.architecture import build_network, describe, resolve
from acnet_pl.nn import PlainConv
from acnet_pl.regular_files import check_regular

__all__ = ["image_size_of", "load_for_export", "load_trained", "real_images", "stock_constructor", "stock_network"]

_IMAGES = (".jpg", ".jpeg", ".png")
_MOST_IMAGES = 256


def load_trained(checkpoint: Path) -> tuple[nn.Module, dict[str, Any], Path]:
    """Load the network of a checkpoint.

    Args:
        checkpoint: Checkpoint that a run wrote.

    Returns:
        The not fused network; what it was built from, with the ``preprocessing`` that the checkpoint tells, or the
        run's fused.safetensors if that is of the same network; and the run's folder.

    Raises:
        CheckpointError: As `acnet_pl.checkpoint.load_network`.
    """
    network, info = load_network(checkpoint)
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    beside = folder / "fused.safetensors"
    if "preprocessing" not in info and beside.is_file():
        about = fused_info(beside)
        if all(about.get(name) == info[name] for name in ("backbone", "conv", "num_classes")):
            info = {**info, "preprocessing": about.get("preprocessing", {})}
    return network, {**info, "weights": checkpoint.name}, folder


def image_size_of(info: dict[str, Any]) -> int | None:
    """Return the width of the images that a network was trained on, if known."""
    shape = (info.get("preprocessing") or {}).get("image_shape")
    return int(shape[-1]) if shape else None


def load_for_export(checkpoint: Path, format: str) -> tuple[nn.Module, dict[str, Any], Path]:
    """Return the network, its architecture, its preprocessing, and the run's folder."""
    if checkpoint.suffix == ".safetensors":
        info = fused_info(checkpoint)
        if format == "stock":
            raise ValueError(
                f"{checkpoint} is fused: its batch norms, which the stock architecture has, are gone; give the run's "
                "checkpoint (checkpoints/last.ckpt)"
            )
        return load_fused(checkpoint), info, checkpoint.parent
    return load_trained(checkpoint)


def stock_network(network: nn.Module, info: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return the trained network and its architecture without blocks."""
    stock = build_network(info["backbone"], describe(PlainConv()), info["num_classes"])
    if isinstance(network, (Torchvision, Timm)) and isinstance(stock, (Torchvision, Timm)):
        return network.model, stock.model
    return network, stock


def stock_constructor(info: dict[str, Any]) -> str:
    """Return Python code that builds the architecture of `stock_network`.

    Examples:
        >>> described = {"class_path": "acnet_pl.backbones.ResNetCifar", "init_args": {"depth": 8}}
        >>> stock_constructor({"backbone": described, "num_classes": 4})
        'acnet_pl.backbones.ResNetCifar(conv=acnet_pl.PlainConv(), num_classes=4, depth=8)'
    """
    backbone, classes = info["backbone"], info["num_classes"]
    make, options = resolve(backbone, "backbone"), backbone.get("init_args") or {}
    if make in (Torchvision, Timm):
        function, arguments = make.stock_constructor(num_classes=classes, **options)
        return f"{function}({_arguments(arguments)})"
    path = backbone["class_path"]
    if getattr(backbones, make.__name__, None) is make:
        path = f"{backbones.__name__}.{make.__name__}"
    conv = "acnet_pl.PlainConv()"
    if {"conv", "num_classes"} <= inspect.signature(make).parameters.keys():
        return f"{path}(conv={conv}, {_arguments({'num_classes': classes, **options})})"
    return f"{path}({', '.join(filter(None, [conv, str(classes), _arguments(options)]))})"  # it calls them otherwise


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def real_images(folder: Path, size: int, preprocessing: dict[str, Any]) -> list[Tensor]:
    """Return up to 256 images of a folder, evenly chosen, scaled to the size and normalised."""
    from PIL import Image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(_IMAGES)}); give another --images, or leave it out")
    pixels = []
    for path in paths[:: -(-len(paths) // _MOST_IMAGES)]:
        try:
            check_regular(path)
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                scaled = Image.fromarray(rgb_pixels(image)).resize((size, size))
        except Exception as error:  # a decoder may fail in any way on a corrupt file
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
        pixels.append(torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8).view(size, size, 3))
    mean, std = preprocessing.get("mean") or [0.5] * 3, preprocessing.get("std") or [0.25] * 3
    return [normalize(torch.stack(pixels), mean, std)]
