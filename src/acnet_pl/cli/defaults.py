"""What lies under whatever the user says: the default configuration, and the data that a checkpoint was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info

from acnet_pl.checkpoint import read_checkpoint
from acnet_pl.modules.architecture import check_hyper_parameters

__all__ = ["default_configs", "with_data_of_checkpoint"]

_PACKAGE = Path(__file__).parent.parent


def default_configs(args: Sequence[str]) -> list[str]:
    """Files with the defaults for a command line: with the digits as data only where it names no data module.

    As a default under another data module, the digits' own options (no flipping, a small crop) would become that
    module's: the parser keeps what two classes have in common when a ``class_path`` changes.

    Args:
        args: The command's arguments.
    """
    files = [_PACKAGE / "defaults.yaml"]
    if not _names_data(args):
        files.append(_PACKAGE / "default_data.yaml")
    return [str(file) for file in files]


def with_data_of_checkpoint(args: Sequence[str]) -> list[str]:
    """Take the data of the run that wrote a checkpoint where the command line names a checkpoint and no data.

    Args:
        args: The command and its arguments, which lie over what is added.

    Raises:
        CheckpointError: It is damaged or no checkpoint.
        ValueError: The checkpoint is in no run's folder, or that has data which are not acnet_pl's.
    """
    path = _checkpoint(args)
    if path is None or not path.is_file() or _names_data(args):
        return list(args)
    config = next((file for parent in path.parents[:2] if (file := parent / "config.yaml").is_file()), None)
    data = _content(str(config)).get("data") if config else None
    # A class of another package is one that the user has to name: to look it up executes that package.
    if isinstance(data, dict) and str(data.get("class_path")).startswith("acnet_pl.data."):
        options = ", ".join(f"{name}={value}" for name, value in (data.get("init_args") or {}).items())
        rank_zero_info(f"Data of {config}: {data['class_path'].rpartition('.')[2]}({options})")
        return [args[0], f"--data={json.dumps(data)}", *args[1:]]
    content = read_checkpoint(path)
    check_hyper_parameters(content.get("hyper_parameters") or {})
    found = f"its run's data are {data.get('class_path')}" if isinstance(data, dict) else "no config.yaml lies above it"
    raise ValueError(
        f"{args[0]} needs the data of {path} ({found}); give --data and its options, such as --data CIFARDataModule "
        "--data.root DIR, or the --config that has them"
    )


def _checkpoint(args: Sequence[str]) -> Path | None:
    for index, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if option == "--ckpt_path" and (equals or index + 1 < len(args)):
            return Path(value if equals else args[index + 1])
    return None


def _names_data(args: Sequence[str]) -> bool:
    for index, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if option in ("--data", "--data.class_path"):
            return True
        if option in ("-c", "--config") and (equals or index + 1 < len(args)):
            data = _content(value if equals else args[index + 1]).get("data")
            if isinstance(data, str) or (isinstance(data, dict) and "class_path" in data):
                return True
    return False


def _content(config: str) -> dict[str, Any]:
    """What a configuration says; nothing where it cannot be read, which the parser will complain of."""
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    # A file that `--print_config` or a run wrote may hold one command's options under its name.
    return content if isinstance(content, dict) else {}
