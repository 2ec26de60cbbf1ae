"""The configuration files that lie under whatever the user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["default_configs"]

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
