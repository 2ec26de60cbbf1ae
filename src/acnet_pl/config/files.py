"""Configuration files: the YAML that ``--config`` names, and the ``config.yaml`` of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.errors import UsageError
from acnet_pl.config.names import did_you_mean, nearest
from acnet_pl.regular_files import read_text

__all__ = [
    "CONFIG",
    "EXPERIMENTS",
    "check_output",
    "check_there",
    "content_of",
    "is_missing",
    "nearby",
    "read_config",
    "run_config",
    "run_order",
    "with_recipes",
]

CONFIG = "config.yaml"
"""Name of the file in a run's folder that holds its whole configuration."""

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
"""The recipes: the repository's experiments/, which an installed package carries along."""


def content_of(file: str | Path) -> dict[str, Any]:
    """Read a configuration file; return {} if it cannot be read, which the parser reports."""
    import yaml

    try:
        content = _parsed(read_text(file))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _parsed(text: str) -> Any:
    from acnet_pl.yaml_text import parse

    return deepcopy(parse(text))  # a command reads the same recipes and runs many times over


def run_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a run's folder; return {} if it is missing or damaged."""
    return content_of(folder / CONFIG)


def read_config(given: str) -> dict[str, Any]:
    """Read the value of ``--config``: a file, or YAML on the command line.

    Args:
        given: The option's value.

    Raises:
        UsageError: There is no such file, or its content is no YAML or no mapping; the message names file and line.
    """
    import yaml

    path = Path(given)
    if re.match(r"[\w+.-]+://", given):
        raise UsageError(f"--config {given} is an address; copy the file to this machine and give its path")
    if path.is_dir():
        raise UsageError(f"--config {given} is a folder; give the YAML file of a configuration")
    inline = not path.exists()
    if inline and (":" not in given or given.endswith((".yaml", ".yml", ".json"))):
        raise UsageError(f"--config {given}: there is no such file{did_you_mean(_nearest_file(path))}")
    name = "--config" if inline else given
    try:
        text = given if inline else read_text(path)
        content = _parsed(text)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{name}: cannot be read as YAML ({type(error).__name__}: {error})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name}{_fault(error, text)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(
            f"{name}: expected options and their values, as in `trainer: {{max_epochs: 3}}`, got {_short(content)}"
        )
    return content


def with_recipes(words: Sequence[str]) -> list[str]:
    """Return a command line in which the package's files replace missing configurations ``experiments/...``.

    Args:
        words: The command and its arguments.
    """
    found = list(words)
    for option in Arguments(words).options:
        path = Path(option.value or "")
        if option.name != "config" or path.parts[:1] != ("experiments",) or path.exists():
            continue
        recipe = EXPERIMENTS.joinpath(*path.parts[1:])
        if recipe.is_file():
            inline = words[option.position] != option.typed  # --config=FILE
            found[option.position + (not inline)] = f"{option.typed}={recipe}" if inline else str(recipe)
    return found


def check_there(path: Path, what: str) -> None:
    """Raise a UsageError if a file or folder is missing, with the nearest name."""
    if is_missing(str(path)):
        raise UsageError(f"{path}: there is no such {what}{nearby(path)}")


def check_output(output: Path, *read: Path, ending: str = "") -> Path:
    """Return the file that is to be written for ``--output``: of a link, the file that it names.

    Args:
        output: The option's value.
        read: Files that the command reads.
        ending: How the names of what the command writes end; "" for any.

    Raises:
        UsageError: It is a folder or device, has another ending, cannot be made, or is a file that the command reads.
    """
    given = output
    try:
        output = given.resolve() if given.is_symlink() else given
    except (OSError, RuntimeError):
        raise UsageError(f"--output {given} is a link that leads to no file; give another name") from None
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; give the name of a file")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UsageError(f"--output {output}: {parent} is a file, not a folder")
    try:
        TemporaryFile(dir=parent).close()  # what the permissions say is not all
    except OSError:
        raise UsageError(
            f"--output {output}: files cannot be made in the folder {parent}; give another place"
        ) from None
    if output.is_symlink():  # a circle of links
        raise UsageError(f"--output {given} is a link that leads to no file; give another name")
    if output.exists() and not output.is_file():
        raise UsageError(f"--output {output} is a named pipe, device or socket; give the name of a file")
    for file in read if output.exists() else ():
        if file.exists() and output.samefile(file):
            raise UsageError(f"--output {output} would take the place of the file that is read; give another name")
    if ending and output.suffix.lower() != ending:
        found = output.suffix or "nothing"
        raise UsageError(
            f"--output {output}: the command writes {ending} files, and this name ends in {found}; give one such as "
            f"{output.with_suffix(ending)}"
        )
    return output


def is_missing(path: str) -> bool:
    """Return True if a path of this machine's file system does not exist."""
    return "://" not in path and not path.startswith("registry:") and not Path(path).expanduser().exists()


def nearby(path: Path) -> str:
    """Return a hint for a missing path: the nearest name, or the folder where the path ends."""
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    if parent is None:
        return ""
    missing = path.relative_to(parent).parts[0]
    near = nearest(missing, [entry.name for entry in parent.iterdir()], cutoff=0.75)
    if near:
        return did_you_mean(str(parent / near))
    return "" if parent == Path() else f" ({parent} has no {missing})"


def _fault(error: Exception, text: str) -> str:
    """Return where and why a text is not readable as YAML, as the end of an error message."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": cannot be read as YAML: {' '.join(str(error).split())[:200]}"
    lines = text.splitlines()
    number = min(mark.line, max(len(lines) - 1, 0))
    line = lines[number] if lines else ""
    where = f", line {mark.line + 1}: "
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"{where}the line is indented with a tab; YAML wants spaces"
    problem = str(getattr(error, "problem", None) or "cannot be read as YAML")
    context, start = getattr(error, "context", None), getattr(error, "context_mark", None)
    began = f" ({context}, which began in line {start.line + 1})" if context and start else ""
    return f"{where}{problem}{began}: {line.strip()[:80]!r}"


def _nearest_file(path: Path) -> str | None:
    """Return a configuration with a name similar to a missing one's, from its folder or else the recipes, or None."""
    folder = path.parent if path.parent.is_dir() else Path()
    for files in (folder.glob("*.y*ml"), Path("experiments").rglob("*.yaml"), EXPERIMENTS.rglob("*.yaml")):
        by_name = {file.name: str(file) for file in files}
        if found := nearest(path.name, by_name, cutoff=0.75):
            return by_name[found]
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def run_order(folder: Path) -> tuple[str, int, str]:
    """Return a key that sorts the folders ``runs/NAME/<time>`` by the order in which they were made.

    `make_run_folder` gives no run a time before that of an earlier one, even where the clock was set back.

    Examples:
        >>> names = ["2026-01-02T03-04-05-10", "2026-01-02T03-04-05-test-2", "2026-01-02T03-04-05"]
        >>> [folder.name for folder in sorted(map(Path, names), key=run_order)]
        ['2026-01-02T03-04-05', '2026-01-02T03-04-05-test-2', '2026-01-02T03-04-05-10']
    """
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)(?:-[a-z]+)?(?:-(\d+))?", folder.name)
    return (found[1], int(found[2] or 1), folder.name) if found else ("", 0, folder.name)
