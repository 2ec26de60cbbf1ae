"""The trainer's plugins: checkpoints that are written whole, and batch norms over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.plugins.layer_sync import LayerSync

from acnet_pl.checkpoint import AtomicCheckpointIO
from acnet_pl.modules import NormSync

__all__ = ["plugins_of"]


def plugins_of(trainer: Mapping[str, Any]) -> list[Any]:
    """Return the plugins of a trainer with `AtomicCheckpointIO` and `NormSync`, unless the user gave others.

    Args:
        trainer: The trainer's arguments.
    """
    given = trainer.get("plugins")
    plugins = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    if trainer.get("sync_batchnorm") and not any(isinstance(plugin, LayerSync) for plugin in plugins):
        plugins.append(NormSync())
    return plugins
