"""Find the command that starts this program in the user's shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["program", "python"]

_SCRIPT = "acnet-pl"


def program() -> str:
    """Return the command that starts this program: ``acnet-pl`` if that was used, else ``PYTHON -m acnet_pl``."""
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("-")
    if started.stem == _SCRIPT:
        return _word(started, _SCRIPT)
    return f"{python()} -m acnet_pl"


def python() -> str:
    """Return a word that starts this interpreter from the shell."""
    return _word(Path(sys.executable), "python")


def _word(file: Path, name: str) -> str:
    """Return the name if the shell finds this file by it, else the path, relative if below the working folder."""
    found = shutil.which(name)
    # Links are not resolved: the Python of an environment is a link to one outside of it.
    if found is not None and os.path.abspath(found) == os.path.abspath(file):  # noqa: PTH100
        return name
    path = file.absolute()
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
