"""Restore what a ModelCheckpoint remembers of its files where they lie now, and nothing outside its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from acnet_pl.checkpoint import AtomicCheckpointIO, CheckpointError

__all__ = ["check_names", "relocate_checkpoints"]


def relocate_checkpoints(trainer: Trainer, checkpoint: Mapping[str, Any], run: Path) -> None:
    """Rewrite the states of ModelCheckpoints for the folders that they write to now.

    A state names files by absolute paths: after a run's folder was moved, Lightning forgets which was the best. It also
    removes files that the state names, wherever they are. What is not in the callback's folder is left out here, and
    where that is not in the run's, what is no checkpoint of the same network.

    Args:
        trainer: Its ModelCheckpoints are set up.
        checkpoint: From which the training goes on; the callbacks' states in it are changed in place.
        run: The run's folder.
    """
    states = checkpoint.get("callbacks") or {}
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
            continue
        keys = [key for key in (callback.state_key, callback._legacy_state_key) if key in states]
        if keys:
            state = states[keys[0]]
            for key in keys:
                del states[key]
            # As process 0 sees the files: the processes are to decide alike which checkpoint is better.
            found = trainer.strategy.broadcast(
                _relocated(callback, state, checkpoint, run) if trainer.is_global_zero else None
            )
            if found is not None:
                states[callback.state_key] = found


def check_names(trainer: Trainer, folder: Path, names: tuple[str, ...]) -> None:
    """Raise a ValueError if a ModelCheckpoint would write a file of one of these names in this folder, or no file."""
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        try:
            callback.format_checkpoint_name({})
        except (ValueError, LookupError, AttributeError) as error:
            raise ValueError(
                f"ModelCheckpoint(filename={callback.filename!r}) is no pattern of a file's name ({error}); braces "
                "hold a metric, as in '{epoch}-{val/top1:.3f}'"
            ) from error
        if Path(str(callback.dirpath)).resolve() != folder.resolve():
            continue
        if callback.save_last and f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}" in names:
            raise ValueError(
                f"ModelCheckpoint(save_last={callback.save_last!r}) would replace {folder / names[0]}, from which a "
                "killed run continues; leave save_last out: RunCheckpoint keeps the last weights there"
            )
        if f"{callback.filename}{callback.FILE_EXTENSION}" in names:
            raise ValueError(
                f"ModelCheckpoint(filename={callback.filename!r}) would write a file that RunCheckpoint writes too, "
                f"{folder / str(callback.filename)}{callback.FILE_EXTENSION}; give it another filename, such as 'best'"
            )


def _relocated(
    callback: ModelCheckpoint, state: Any, checkpoint: Mapping[str, Any], run: Path
) -> dict[str, Any] | None:
    """Return a state of the files that are in the callback's folder; None where there are none."""
    try:
        scores, worst = dict(state["best_k_models"]), state["kth_best_model_path"]
        named = [state["best_model_path"], state["last_model_path"], worst, *scores]
        new = Path(str(callback.dirpath))
        where = {name: _there(name, Path(state["dirpath"]), new) for name in named}
        if not new.resolve().is_relative_to(run.resolve()):  # a folder of the user's, with other files
            where = {name: path if _alike(path, checkpoint) else "" for name, path in where.items()}
        models = {where[name]: score for name, score in scores.items() if where[name]}
        rank = {path: float(score) for path, score in models.items()}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        rank_zero_warn(
            f"what the checkpoint says of {type(callback).__name__} cannot be read ({type(error).__name__}: {error}); "
            "the best checkpoint is chosen among the epochs to come"
        )
        return None
    best, last, kth = where[state["best_model_path"]], where[state["last_model_path"]], where[worst]
    if scores and not best:
        rank_zero_warn(
            f"the best checkpoint so far, {state['best_model_path']}, is not in {callback.dirpath}; the best is chosen "
            "among " + ("those that are there and " if models else "") + "the epochs to come"
        )
    if not models and not best:
        return None
    found = dict(state, dirpath=callback.dirpath, best_k_models=models, best_model_path=best, last_model_path=last)
    first, final = (min, max) if callback.mode == "min" else (max, min)
    if models and not best:
        best = first(rank, key=rank.__getitem__)
        found |= {"best_model_path": best, "best_model_score": models[best]}
    if worst and not kth:
        kth = final(rank, key=rank.__getitem__) if models else ""
        found |= {"kth_value": models[kth]} if models else {}
    return found | {"kth_best_model_path": kth}


def _alike(path: str, checkpoint: Mapping[str, Any]) -> bool:
    """Return True for a checkpoint with the weights of the same layers."""
    if not path:
        return False
    try:
        content = AtomicCheckpointIO().load_checkpoint(path)
    except CheckpointError:
        return False
    return list(content["state_dict"]) == list(checkpoint["state_dict"])


def _there(name: str, old: Path, new: Path) -> str:
    """Return where a file of a folder lies in another; nothing unless it is there, below that folder."""
    if not name or not Path(name).is_relative_to(old):
        return ""
    path = new / Path(name).relative_to(old)
    return str(path) if path.is_file() and path.resolve().is_relative_to(new.resolve()) else ""
