"""The trained network that ``fuse`` and ``export`` are given: its checkpoint, and what lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from acnet_pl.checkpoint import load_network
from acnet_pl.deploy import fused_info

__all__ = ["image_size_of", "load_trained"]


def load_trained(checkpoint: Path) -> tuple[nn.Module, dict[str, Any], Path]:
    """Load the network of a checkpoint.

    Args:
        checkpoint: What a run wrote.

    Returns:
        The unfolded network; what it was built from, with the ``preprocessing`` that the run's fused.safetensors tells
        if that is of the same network; and the run's folder.

    Raises:
        CheckpointError: As `acnet_pl.checkpoint.load_network`.
    """
    network, info = load_network(checkpoint)
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    beside = folder / "fused.safetensors"
    if beside.is_file():
        about = fused_info(beside)
        if all(about.get(name) == info[name] for name in ("backbone", "conv", "num_classes")):
            info = {**info, "preprocessing": about.get("preprocessing", {})}
    return network, {**info, "folded": checkpoint.name}, folder


def image_size_of(info: dict[str, Any]) -> int | None:
    """Width of the images that a network was trained on, as far as is known."""
    shape = (info.get("preprocessing") or {}).get("image_shape")
    return int(shape[-1]) if shape else None
