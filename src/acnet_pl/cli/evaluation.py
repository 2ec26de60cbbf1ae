"""Check a checkpoint that a run is given, and its classes; make the folder for results of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule

from acnet_pl.callbacks.preprocessing import check_same_classes, describe_images
from acnet_pl.checkpoint import CheckpointError, build_described, classifier_options, preprocessing_of, read_checkpoint
from acnet_pl.config.arguments import Arguments
from acnet_pl.config.defaults import data_of_checkpoint
from acnet_pl.config.own_options import RunSettings
from acnet_pl.config.run_folder import make_run_folder
from acnet_pl.modules.untrusted import check_hyper_parameters

__all__ = ["check_classes_of_data", "evaluation_folder", "images_of_checkpoint", "with_mapped_classes"]

_TRUE = ("true", "True", "yes", "on", "1", None)


def images_of_checkpoint(path: str, goes_on: bool) -> dict[str, Any]:
    """Return how a checkpoint's images are prepared, if it can be used.

    Args:
        path: The file.
        goes_on: Whether its training is to go on.

    Raises:
        CheckpointError: It is of something else, describes a larger network than it holds, or has no state of a
            training to go on with.
        ValueError: It names what files that travel with runs may not.
    """
    content = read_checkpoint(path)
    images = preprocessing_of(content, path)
    check_hyper_parameters(described := classifier_options(content, path))
    build_described(described, path)  # of a size that the file can hold
    if goes_on and not {"optimizer_states", "lr_schedulers", "loops"} <= content.keys():
        raise CheckpointError(
            f"{path} holds weights and no state of a training to go on with; give one that was not saved with "
            "save_weights_only"
        )
    return images


def evaluation_folder(config: Namespace, command: str | None, name: str) -> Path:
    """Make a folder for the results of a command: ``COMMAND/<time>`` in the run's, unless the user names another.

    Args:
        config: The options of the command.
        command: validate, test or predict.
        name: Name of the run, for checkpoints that are in no run's folder.

    Raises:
        ValueError: ``COMMAND`` in the run's folder is a link.
    """
    run, _ = data_of_checkpoint(Path(config.ckpt_path)) if config.ckpt_path else (None, None)
    if run is None or config.runs_dir != RunSettings.runs_dir or config.name is not None:
        return make_run_folder(config.runs_dir, name, f"-{command}")
    if (run / str(command)).is_symlink():
        raise ValueError(
            f"{run / str(command)} is a link, where results are to be written; remove it, or give --runs_dir for a "
            "folder elsewhere"
        )
    return make_run_folder(str(run), str(command))


def check_classes_of_data(trained: Mapping[str, Any], data: LightningDataModule) -> None:
    """Compare the classes of a checkpoint with those of the data that a command names.

    Raises:
        ValueError: The classes differ.
    """
    check_same_classes(
        trained,
        describe_images(data),
        "Give the data of the run; or, where the names mean the same, --data ImageFolderDataModule --map_classes true, "
        "which gives every class folder the label that its name has in the checkpoint",
    )


def with_mapped_classes(args: Sequence[str]) -> list[str]:
    """Apply ``--map_classes true``: give the data module the classes of the checkpoint, in their order.

    Args:
        args: The command and its arguments, the data of the run among them.

    Raises:
        ValueError: There is no checkpoint, it does not know its classes, or the data module cannot be told.
    """
    arguments = Arguments(args)
    asked = [option for option in arguments.options if option.name == "map_classes"]
    if not asked or asked[-1].value not in _TRUE:
        return list(args)
    path = arguments.last("ckpt_path")
    if not path or not Path(path).is_file():
        raise ValueError(
            "--map_classes maps the class folders to those of a checkpoint; give its file with --ckpt_path"
        )
    names = preprocessing_of(read_checkpoint(path), path).get("class_names")
    if not isinstance(names, list):
        raise ValueError(f"--map_classes: {path} does not say what its classes are called; leave the option out")
    data = [option.value or "" for option in arguments.options if option.name in ("data", "data.class_path")]
    if not data or "ImageFolderDataModule" not in data[-1]:
        raise ValueError("--map_classes needs class folders that are read by name: give --data ImageFolderDataModule")
    return [*args, f"--data.classes={json.dumps(names)}"]
