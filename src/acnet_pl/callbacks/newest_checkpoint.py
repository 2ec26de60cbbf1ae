"""Find the checkpoint that a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn

from acnet_pl.checkpoint import CheckpointError, read_checkpoint

__all__ = ["KEY", "LAST", "PREVIOUS", "newest_checkpoint"]

KEY = "acnet_pl"  # in a checkpoint, of what RunCheckpoint adds
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

_COUNTS = dict.fromkeys(("ready", "completed", "started", "processed"), int)
_PROGRESS = {"total": _COUNTS, "current": _COUNTS}
_FORM = {
    "epoch": int,
    "global_step": int,
    "callbacks": dict,
    "optimizer_states": [{"state": dict, "param_groups": [dict]}],
    "lr_schedulers": list,
    "loops": {
        "fit_loop": {
            "state_dict": dict,
            "epoch_progress": _PROGRESS,
            "epoch_loop.state_dict": dict,
            "epoch_loop.batch_progress": _PROGRESS,
        }
    },
    KEY: {"steps_logged": int, "metrics": dict, "rows": int, "seed": int, "trained": bool},
}
"""What a checkpoint of `RunCheckpoint` holds beside the weights; numbers are not negative, lists not empty."""


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
            if wrong := _misfit(content, _FORM, ""):
                raise CheckpointError(f"{path} cannot be resumed from: its {wrong} is not as RunCheckpoint writes it")
            for key in ("backbone", "conv", "num_classes"):
                if options.get(key) != model.hparams[key]:
                    raise CheckpointError(f"{path} is of another network: {key} is {options.get(key)}")
            return path
        except CheckpointError as error:
            rank_zero_warn(f"Passing over a checkpoint: {error}")
            if set_aside and not path.with_name(f"{name}.damaged").is_dir():
                path.replace(path.with_name(f"{name}.damaged"))
    return None


def _misfit(value: Any, form: Any, name: str) -> str | None:
    """Return the name of the first part of a value that is missing or not of a form; None where all of it fits."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return name
        inner = ((value.get(key), one, f"{name}.{key}".lstrip(".")) for key, one in form.items())
    elif isinstance(form, list):
        if not (isinstance(value, list) and value):
            return name
        inner = ((item, form[0], name) for item in value)
    else:
        fits = isinstance(value, form) and (form is not int or (not isinstance(value, bool) and value >= 0))
        return None if fits else name
    return next((wrong for one in inner if (wrong := _misfit(*one))), None)
