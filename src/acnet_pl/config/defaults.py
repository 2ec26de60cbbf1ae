"""Complete a command line by default files, by the resumed run, or by a checkpoint's data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import CONFIG, content_of, run_config
from acnet_pl.trust import is_trusted

__all__ = [
    "DEFAULT_FILES",
    "checkpoint_that_brings_data",
    "data_of_checkpoint",
    "default_configs",
    "with_checkpoint",
    "with_config_of_resumed",
    "with_data_of_checkpoint",
]

_PACKAGE = Path(__file__).parent.parent
DEFAULT_FILES = [str(_PACKAGE / name) for name in ("defaults.yaml", "default_data.yaml", "default_optimizer.yaml")]
"""All files with defaults; `default_configs` returns those that count for a command line."""


def default_configs(args: Sequence[str]) -> list[str]:
    """Return the files with the defaults for a command line.

    The digits are the data only where it names none, and SGD's options count only for SGD: the parser would keep what
    another class has in common with the default one.

    Args:
        args: The command and its arguments.
    """
    arguments = Arguments(args)
    general, data, optimizer = DEFAULT_FILES
    files = [general]
    if not _named(arguments, "data"):
        files.append(data)
    if {name.rpartition(".")[2] for name in _named(arguments, "model.optimizer")} <= {"SGD"}:
        files.append(optimizer)
    return files


def with_checkpoint(args: Sequence[str]) -> list[str]:
    """Return a command line in which the single file given to `validate` or `test` is its ``--ckpt_path``.

    Args:
        args: The command and its arguments.
    """
    arguments = Arguments(args)
    words = list(args)
    if arguments.command in ("validate", "test") and len(arguments.positional) == 1:
        position, file = arguments.positional[0]
        if arguments.last("ckpt_path") is None and not file.endswith((".yaml", ".yml")):
            words[position] = f"--ckpt_path={file}"
    return words


def with_config_of_resumed(args: Sequence[str]) -> list[str]:
    """Insert the configuration of a resumed run before the options, which override it.

    Raises:
        ValueError: It names what files that travel with runs may not; see `acnet_pl.modules.untrusted`.
    """
    resumed = Arguments(args).last("resume")
    if resumed is not None and (file := Path(resumed, CONFIG)).is_file():
        from acnet_pl.config.run_paths import check_paths
        from acnet_pl.config.settings import GROUPS
        from acnet_pl.modules.untrusted import check_configuration

        check_paths(check_configuration(file, GROUPS), Path(resumed), Arguments(args))
        return [args[0], "--config", str(file), *args[1:]]
    return list(args)


def with_data_of_checkpoint(args: Sequence[str]) -> list[str]:
    """Insert the data of a checkpoint's run, if the command line names none.

    Args:
        args: The command and its arguments, which override what is added.

    Raises:
        CheckpointError: It is damaged or no checkpoint.
        ValueError: The checkpoint is in no run's folder, or that has data which are not acnet_pl's.
    """
    path = checkpoint_that_brings_data(args)
    if path is None:
        return list(args)
    folder, data = data_of_checkpoint(path)
    # A class of another package is one that the user has to name: to look it up executes that package.
    if folder and isinstance(data, dict) and is_trusted(str(data.get("class_path"))):
        from acnet_pl.config.run_paths import check_paths
        from acnet_pl.modules.untrusted import check_parts

        check_parts({"data": data})
        check_paths({"data": data}, folder, Arguments(args))
        return [args[0], f"--data={json.dumps(data)}", *args[1:]]
    from acnet_pl.checkpoint import classifier_options, read_checkpoint
    from acnet_pl.modules.untrusted import check_hyper_parameters

    check_hyper_parameters(classifier_options(read_checkpoint(path), path))
    found = f"its run's data are {data.get('class_path')}" if isinstance(data, dict) else "no config.yaml lies above it"
    raise UsageError(
        f"{args[0]} needs the data of {path} ({found}); give --data and its options, such as --data CIFARDataModule "
        "--data.root DIR, or the --config that has them, or --trust the package of that class"
    )


def checkpoint_that_brings_data(args: Sequence[str]) -> Path | None:
    """Return the checkpoint that a command line names if it names no data, or None."""
    arguments = Arguments(args)
    path = Path(arguments.last("ckpt_path") or "")
    return path if path.exists() and not path.is_dir() and not _named(arguments, "data") else None


def data_of_checkpoint(path: Path) -> tuple[Path | None, Any]:
    """Return the folder of the run that wrote a checkpoint, and the ``data`` of its configuration."""
    folder = next((parent for parent in path.parents[:2] if (parent / CONFIG).is_file()), None)
    return folder, run_config(folder).get("data") if folder else None


def _named(arguments: Arguments, slot: str) -> list[str]:
    """Return the classes that a command line and its configurations name for a slot."""
    found = []
    for option in arguments.options:
        if option.name in (slot, f"{slot}.class_path"):
            found.append(option.value or "")
        elif option.name == "config" and option.value is not None:
            value: Any = content_of(option.value)
            for part in slot.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            name = value.get("class_path") if isinstance(value, dict) else value
            found += [name] if isinstance(name, str) else []
    return found
