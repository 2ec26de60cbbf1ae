"""Files of folded networks: weights in safetensors together with what is needed to build the network again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from acnet_pl.atomic import atomic_path
from acnet_pl.modules.architecture import build_network
from acnet_pl.nn import fuse_model

__all__ = ["fused_info", "load_fused", "save_fused"]

FORMAT = "acnet_pl.fused/1"


def save_fused(network: nn.Module, path: str | Path, info: Mapping[str, Any]) -> Path:
    """Write a folded network, atomically.

    Args:
        network: Folded, as `fuse_model` returns it.
        path: File to write, by convention ``*.safetensors``.
        info: Plain data with at least ``backbone`` and ``conv`` (as `modules.architecture.describe` gives them) and
            ``num_classes``; kept as JSON in the file's metadata and readable with `fused_info`.

    Returns:
        The path.
    """
    path = Path(path)
    # Cloned, because safetensors takes no two names of one tensor.
    state = network.state_dict().items()
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state}
    with atomic_path(path) as unfinished:
        # A single entry: safetensors writes several in an order that differs from file to file.
        save_file(tensors, unfinished, metadata={"acnet_pl": json.dumps({"format": FORMAT, **info})})
    return path


def fused_info(path: str | Path) -> dict[str, Any]:
    """Read what was written beside the weights: architecture, classes, preprocessing, where it came from.

    Raises:
        ValueError: The file is missing, truncated, or not one that `save_fused` wrote.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); write it again with `fuse`") from error
    try:
        info = json.loads(metadata.get("acnet_pl", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: what it says of its network is not JSON ({error})") from error
    found = info.pop("format", metadata.get("format")) if isinstance(info, dict) else None
    if found != FORMAT or not isinstance(info, dict) or not {"backbone", "conv", "num_classes"} <= info.keys():
        raise ValueError(
            f"{path} does not say how its network is built (format {found!r}, expected {FORMAT!r}); "
            "load it with safetensors.torch.load_file into a network of your own"
        )
    return info


def load_fused(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Build the folded network of a ``fused.safetensors`` and load its weights; ready for inference.

    Args:
        path: File that a run or ``python -m acnet_pl fuse`` wrote.
        device: Where to put the network.

    Returns:
        The network in eval mode, from normalised images ``(N, 3, H, W)`` to logits ``(N, num_classes)``. How to
        normalise is under ``preprocessing`` in `fused_info`.

    Raises:
        ValueError: The file is damaged, or was made with a backbone of a package that you have not imported.
    """
    info = fused_info(path)
    network = fuse_model(build_network(info["backbone"], info["conv"], info["num_classes"]).eval())
    try:
        with safe_open(Path(path), framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        _check_types(network, tensors)
        network.load_state_dict(tensors, strict=True, assign=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"{path} does not fit the network it describes: {error}") from error
    return network.to(device).eval()


def _check_types(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Assigning takes over whatever dtype a file has; a folded network may have another precision, not another kind."""
    for name, tensor in network.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise RuntimeError(f"{name} is {tensors[name].dtype}, expected {tensor.dtype}")
