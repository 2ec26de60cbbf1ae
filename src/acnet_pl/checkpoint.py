"""Read checkpoints that runs wrote, without executing anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from acnet_pl.modules.architecture import build_network

__all__ = ["load_network"]


def load_network(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: A checkpoint that an `ImageClassifier` run wrote.

    Returns:
        The unfolded network on the CPU in eval mode, and what it was built from: ``backbone``, ``conv``,
        ``num_classes``.

    Raises:
        ValueError: The file is missing, damaged, holds anything but plain data and tensors, or is of something else.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"there is no checkpoint {path}; a run keeps its own under checkpoints/") from error
    except Exception as error:  # torch.load raises whatever a damaged archive happens to trigger
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason}); take an earlier one"
        ) from error
    options = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(options, dict) or not {"backbone", "conv", "num_classes"} <= options.keys():
        raise ValueError(f"{path} is not a checkpoint of an acnet_pl ImageClassifier")
    info = {name: options[name] for name in ("backbone", "conv", "num_classes")}
    network = build_network(**info)
    state = {k.removeprefix("net."): v for k, v in content["state_dict"].items() if k.startswith("net.")}
    network.load_state_dict(state)
    return network.eval(), info
