"""Names of the files that callbacks write."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_file_name"]

_OTHERS = ("metrics.csv",)  # of what a run's folder has


def check_file_name(option: str, name: str, ending: str) -> None:
    """Raise a ValueError unless an option is the bare name of a file of its own.

    Args:
        option: Name of the option, for the message.
        name: Its value.
        ending: What the name has to end with, as ".csv".
    """
    if Path(name).name != name or not name.endswith(ending) or name in (ending, *_OTHERS):
        raise ValueError(
            f"`{option}` (={name!r}) must be the name of a file, without folders, that ends in {ending}: it is written "
            "to the run's folder, beside other files"
        )
