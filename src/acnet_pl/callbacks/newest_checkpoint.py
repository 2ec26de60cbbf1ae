"""Find the checkpoint that a run goes on from."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn

from acnet_pl.checkpoint import CheckpointError, read_checkpoint

__all__ = ["KEY", "LAST", "PREVIOUS", "newest_checkpoint"]

KEY = "acnet_pl"  # in a checkpoint, of what RunCheckpoint adds
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def newest_checkpoint(folder: Path, model: LightningModule, set_aside: bool = True) -> Path | None:
    """Return the newest whole checkpoint of this model that `RunCheckpoint` wrote below a run's folder.

    Args:
        folder: The run's folder.
        model: Model to train on.
        set_aside: Rename a file that is damaged or of another network, which is named in a warning in any case.
    """
    for name in (LAST, PREVIOUS):
        path = folder / "checkpoints" / name
        if not path.exists():
            continue
        try:
            content = read_checkpoint(path)
            options = content.get("hyper_parameters", {})
            if KEY not in content:
                raise CheckpointError(f"{path} cannot be resumed from: it was not written by RunCheckpoint")
            for key in ("backbone", "conv", "num_classes"):
                if options.get(key) != model.hparams[key]:
                    raise CheckpointError(f"{path} is of another network: {key} is {options.get(key)}")
            return path
        except CheckpointError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
            if set_aside:
                path.replace(path.with_name(f"{name}.damaged"))
    return None
