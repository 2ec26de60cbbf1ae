"""Load the network for ``predict`` from a checkpoint, a fused.safetensors or an ONNX file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.cli.trained import load_for_export
from acnet_pl.data.augment import normalize
from acnet_pl.data.encoded_images import Cut
from acnet_pl.export.formats import METADATA_KEY
from acnet_pl.image_preparation import check_preparation
from acnet_pl.nn import fuse_model
from acnet_pl.regular_files import check_regular

__all__ = ["Predictor", "load_predictor"]


@dataclass(frozen=True)
class Predictor:
    """Network with the classes and image preparation that it needs to classify photos.

    Attributes:
        class_names: In the order of its outputs; their numbers where the file has no names.
        cut: Brings a photo to size.
        mean: Mean of each channel, on the 0..1 scale.
        std: Standard deviation of each channel, likewise.
        run: From normalised images ``(N, 3, H, W)`` on the CPU to logits ``(N, classes)`` on the CPU.
    """

    class_names: list[str]
    cut: Cut
    mean: list[float]
    std: list[float]
    run: Callable[[Tensor], Tensor]

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities ``(N, classes)`` of cut images, uint8 ``(N, H, W, 3)``."""
        return self.run(normalize(images, self.mean, self.std)).float().softmax(dim=1)


def load_predictor(file: Path, device: str) -> Predictor:
    """Load a network for photos.

    Args:
        file: A checkpoint, a fused.safetensors or an ONNX file that this package wrote.
        device: A torch device; "auto" is the GPU where there is one. ONNX runs on the CPU.

    Raises:
        ValueError: There is no such device, or the file does not say how images are prepared, names another number
            of classes than it has, takes no colour images, or cannot be read.
        ModuleNotFoundError: An ONNX file needs onnxruntime.
    """
    where = _device(device)
    if file.suffix == ".onnx":
        run, info = _onnx(file)
        about = _preparation(info, file)
    else:
        network, info, _ = load_for_export(file, "safetensors")
        about = _preparation(info, file)
        if file.suffix != ".safetensors":
            network = _fused(network, about["image_shape"], file)
        run = _torch(network, where)
    classes = _classes(run, about["image_shape"], file)
    names = list(about.get("class_names") or map(str, range(classes)))
    if len(names) != classes:
        raise ValueError(
            f"{file} describes its images wrongly: `class_names` has {len(names)} names, expected one for each of the "
            f"network's {classes} classes; take another file of the same run"
        )
    size = about["image_shape"][-1]
    cut = Cut(size, max(about.get("resize", size), size), 1.0, None, about.get("exif", True))
    return Predictor(names, cut, list(about["mean"]), list(about["std"]), run)


def _preparation(info: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return what a file says of its images, if that is enough to prepare photos."""
    about = check_preparation(info.get("preprocessing") or {}, file)
    if not {"image_shape", "mean", "std"} <= about.keys():
        raise ValueError(
            f"{file} does not say how its images are prepared; give the fused.safetensors of the run that trained it, "
            "or the run's checkpoint"
        )
    channels, height, width = about["image_shape"]
    if channels != 3 or height != width:
        raise ValueError(
            f"{file} is of a network for {channels} channels of {height} x {width} pixels; predict cuts photos to "
            "squares of 3 channels: classify such images with acnet_pl.load_fused in a script"
        )
    return about


def _fused(network: nn.Module, shape: Sequence[int], file: Path) -> nn.Module:
    try:
        return fuse_model(network, torch.zeros(2, *shape))
    except (RuntimeError, ValueError) as error:
        raise _unfit(shape, file, error) from error


def _classes(run: Callable[[Tensor], Tensor], shape: Sequence[int], file: Path) -> int:
    """Return the number of the network's outputs, found by classifying a black image."""
    try:
        return run(torch.zeros(1, *shape)).shape[-1]
    except Exception as error:  # a runtime may fail in any way on a size that is not the network's
        raise _unfit(shape, file, error) from error


def _unfit(shape: Sequence[int], file: Path, error: Exception) -> ValueError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(
        f"{file} says that its images are of shape {list(shape)}, and its network cannot take one ({reason}); take "
        "another file of the same run"
    )


def _device(name: str) -> torch.device:
    """Return a device of this machine."""
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"--device {name}: this machine has {', '.join(there)}") from error
    return where


def _torch(network: nn.Module, where: torch.device) -> Callable[[Tensor], Tensor]:
    network = network.to(where).eval()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(images.to(where))
            return logits.cpu()

    return run


def _onnx(file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    if find_spec("onnxruntime") is None:
        raise ModuleNotFoundError(f"{file} needs onnxruntime: pip install 'acnet-pl[export]'")
    onnxruntime = importlib.import_module("onnxruntime")
    try:
        check_regular(file)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}"))
    except Exception as error:  # a runtime may fail in any way on a file that it does not like
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{file} is not an ONNX file that onnxruntime can run ({reason}); export it again") from error
    (image,) = session.get_inputs()
    fixed = image.shape[0] if isinstance(image.shape[0], int) else None

    def run(images: Tensor) -> Tensor:
        outputs = []
        for part in torch.split(images, fixed or len(images)):
            missing = 0 if fixed is None else fixed - len(part)
            whole = torch.cat([part, part[:1].expand(missing, -1, -1, -1)]).contiguous()
            outputs.append(torch.from_numpy(session.run(None, {image.name: whole.numpy()})[0])[: len(part)])
        return torch.cat(outputs)

    return run, about if isinstance(about, dict) else {}
