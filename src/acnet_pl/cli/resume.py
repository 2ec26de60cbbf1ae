"""Find the run that ``fit --resume`` continues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from acnet_pl.atomic import atomic_path, remove_unfinished
from acnet_pl.callbacks.newest_checkpoint import LAST, newest_checkpoint
from acnet_pl.config.files import CONFIG, run_config, run_order
from acnet_pl.config.run_folder import MARKER, Claim, check_entries, separate_files, write_config
from acnet_pl.modules import ImageClassifier

__all__ = ["Found", "find_run", "wandb_id", "way_on"]

# What may differ between a run and the command that goes on with it; a folder may have been moved.
_FREE = ("resume", "ckpt_path", "weights_only", "config", "runs_dir")


@dataclass(frozen=True)
class Found:
    """Run to continue.

    Attributes:
        folder: Its folder.
        checkpoint: Its newest whole checkpoint; None where it was killed before its first.
        claim: This process's claim to it; None in other processes than the first.
    """

    folder: Path
    checkpoint: Path | None
    claim: Claim | None


def find_run(resume: str, candidates: Iterable[Path], config: str, model: ImageClassifier) -> Found | None:
    """Find the run to continue.

    Every process looks for itself; `RunCheckpoint` sees that all have found the same.

    Args:
        resume: "auto" for the newest unfinished run with this configuration, or a run's folder.
        candidates: Folders to choose from for "auto".
        config: This command's configuration, as YAML.
        model: Model to train on.

    Returns:
        None where "auto" finds no run.

    Raises:
        ValueError: The folder given is not that of an unfinished run with this network, a living process has it, or it
            holds a link that leads out of it.
    """
    first = getattr(rank_zero_only, "rank", 0) == 0
    options = yaml.safe_load(config)
    folders = sorted(candidates, key=run_order, reverse=True) if resume == "auto" else [_given(Path(resume), options)]
    passed_by = []
    for folder in folders:
        if resume == "auto":
            if not (folder / MARKER).is_file():
                continue
            if _comparable(run_config(folder)) != _comparable(options):
                passed_by.append(folder)
                continue
        if first:
            check_entries(folder)
        claim = Claim.of(folder) if first else None
        if first and claim is None:
            rank_zero_info(f"{folder} has not ended, but a living process is at it")
            if resume == "auto":
                continue
            raise ValueError(f"a living process is at {folder}; wait for it, or end it")
        checkpoint = newest_checkpoint(folder, model, set_aside=first)
        if first:
            remove_unfinished(folder)
            separate_files(folder)
            if changed := _changed(_flat(_comparable(run_config(folder))), _flat(_comparable(options))):
                _keep_both(folder, config, changed, checkpoint)
        rank_zero_info(f"Going on with the run in {folder}, from {checkpoint.name if checkpoint else 'the beginning'}")
        return Found(folder, checkpoint, claim)
    where = (options.get("trainer") or {}).get("default_root_dir") or options.get("runs_dir")
    rank_zero_info(f"No unfinished run of this name and configuration in {where}; starting a new one")
    if passed_by:
        rank_zero_info(_why_not(passed_by[0], options))
    return None


def _why_not(folder: Path, options: dict[str, Any]) -> str:
    """Say why an unfinished run of this name is not gone on with, and how it would be."""
    if not (config := run_config(folder)):
        return (
            f"{folder} has not ended either, but its {CONFIG} cannot be read, so whether it is the same run cannot be "
            f"told. If it is, write the file anew with --print_config > {folder / CONFIG} and give --resume auto again"
        )
    changed = _changed(_flat(_comparable(config)), _flat(_comparable(options)))
    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"{folder} has not ended either, but began with other options ({', '.join(changed[:3])}{more}); "
        f"to go on with it, give --resume {folder}"
    )


def _keep_both(folder: Path, config: str, changed: list[str], checkpoint: Path | None) -> None:
    """Write the options that hold from now on, beside those that the run began with, and say what they change."""
    began = folder / "config_at_the_beginning.yaml"
    if not began.exists():
        with atomic_path(began) as unfinished:
            unfinished.write_bytes((folder / CONFIG).read_bytes())
    write_config(folder, config)
    stays = "; seed, optimizer and schedule are those of the checkpoint whatever the options are" if checkpoint else ""
    rank_zero_info(
        f"From here on with other options than the run began with ({began.name}): {', '.join(changed)}{stays}"
    )


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List the options that differ, with both values."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name} {before.get(name)} -> {after.get(name)}" for name in names]


def _flat(options: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(options, dict) or not options:
        return {name: options}
    return {
        inner: value for key, one in options.items() for inner, value in _flat(one, f"{name}.{key}".lstrip(".")).items()
    }


def way_on(folder: Path) -> str:
    """Return how a run goes on that was interrupted."""
    last = folder / "checkpoints" / LAST
    return f"--resume auto goes on from {last}" if last.exists() else f"there is no checkpoint in {folder} yet"


def wandb_id(folder: Path) -> str | None:
    """Return the Weights & Biases id of a run's folder."""
    runs = sorted((folder / "wandb").glob("*run-*-*"))
    return runs[-1].name.rpartition("-")[2] if runs else None


def _given(folder: Path, options: dict[str, Any]) -> Path:
    if not (folder / MARKER).is_file():
        state = "that run has ended" if folder.is_dir() else "there is no such folder"
        if any(folder.glob(f"*/{CONFIG}")):
            state = "a folder of runs, not one of them"
        raise ValueError(
            f"--resume {folder}: {state}; give the folder of one that was stopped (it holds a file {MARKER}), "
            "or auto. To start from a checkpoint's weights and go on in a new run, give --ckpt_path"
        )
    if not run_config(folder):
        raise ValueError(
            f"--resume {folder}: there is no {CONFIG} in it that can be read; write it anew with the run's own options "
            f"and --print_config > {folder / CONFIG}"
        )
    for key in ("backbone", "conv"):
        asked, found = (config.get("model", {}).get(key) for config in (options, run_config(folder)))
        if asked != found:
            raise ValueError(f"--resume {folder}: its {key} is {found}, --model.{key} says {asked}; leave that out")
    return folder.absolute()


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}
