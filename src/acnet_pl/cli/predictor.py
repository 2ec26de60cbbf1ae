"""Load the network for ``predict`` from a checkpoint, a fused.safetensors or an ONNX file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
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
from acnet_pl.nn import fuse_model

__all__ = ["Predictor", "load_predictor"]


@dataclass(frozen=True)
class Predictor:
    """Network with the classes and image preparation that it needs to classify photos.

    Attributes:
        class_names: In the order of its outputs.
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
        ValueError: There is no such device, or the file does not say what its classes are and how images are
            prepared, or cannot be read.
        ModuleNotFoundError: An ONNX file needs onnxruntime.
    """
    where = _device(device)
    if file.suffix == ".onnx":
        run, info = _onnx(file)
    else:
        network, info, _ = load_for_export(file, "safetensors")
        run = _torch(network, info, file, where)
    about = info.get("preprocessing") or {}
    shape, mean, std = (about.get(name) for name in ("image_shape", "mean", "std"))
    if not (isinstance(shape, list) and len(shape) == 3 and mean and std):
        raise ValueError(
            f"{file} does not say how its images are prepared; give the fused.safetensors of the run that trained it, "
            "or the run's checkpoint"
        )
    size = int(shape[-1])
    cut = Cut(size, max(int(about.get("resize") or size), size), 1.0, None, bool(about.get("exif", True)))
    return Predictor(list(about.get("class_names") or []), cut, mean, std, run)


def _device(name: str) -> torch.device:
    """Return a device of this machine."""
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"--device {name}: this machine has {', '.join(there)}") from error
    return where


def _torch(network: nn.Module, info: dict[str, Any], file: Path, where: torch.device) -> Callable[[Tensor], Tensor]:
    shape = (info.get("preprocessing") or {}).get("image_shape")
    if file.suffix != ".safetensors" and shape:
        network = fuse_model(network, torch.zeros(2, *shape))
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
