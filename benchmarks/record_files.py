"""Records of results/: load one, and see what replacing one would lose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookup import PublishError, chosen, listed
from table_views import checked_grid

Record = Mapping[str, Any]

_OF_EVERY_GRID = ("recipe", "departures")


@dataclass(frozen=True)
class Records:
    """Records below a folder.

    Attributes:
        folder: The folder.
        added: Records that are not written yet, by their name below the folder.
    """

    folder: Path
    added: Mapping[str, Record] = field(default_factory=dict)

    def load(self, source: str, needs_grid: bool = False) -> Record:
        """Return the record of ``FILE``, or a grid of it for ``FILE#GRID``, with its name.

        Args:
            source: The words of a marker.
            needs_grid: Whether a grid has to be named.

        Raises:
            PublishError: The file or grid does not exist, or its figures are not those of its runs.
        """
        file, _, part = source.partition("#")
        files = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.json")}
        chosen(dict.fromkeys(sorted(files | {*self.added})), file, "record")
        record = self.added[file] if file in self.added else read_record(self.folder / file)
        grids = record.get("grids")
        if part and not isinstance(grids, Mapping):
            raise PublishError(f"{file} has no grids; write it without #{part}")
        if not part and needs_grid:
            raise PublishError(f"this view needs {file}#GRID; grids of the file: {listed(grids or ())}")
        if not part:
            return record
        return checked_grid(source, {**chosen(grids or {}, part, f"grid in {file}"), "name": part})


def read_record(path: Path) -> Record:
    """Return the content of a record.

    Raises:
        PublishError: The file is missing or is no record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise PublishError(f"{path} is no JSON file: {error}") from error
    if not isinstance(record, dict):
        raise PublishError(f"{path} is no record: it holds a {type(record).__name__}, expected names and values")
    return record


def refuse_loss(target: Path, record: Record, name: str) -> None:
    """Refuse to replace a record that has finished runs which the new one lacks or has with other figures.

    Args:
        target: The record that would be replaced, if it exists.
        record: The new one.
        name: The new one's name in messages.

    Raises:
        PublishError: Runs would be lost.
    """
    if not target.exists():
        return
    old = read_record(target)
    if "grids" not in old:
        raise PublishError(f"{target} exists and is no record of `reproduce`; --replace replaces it all the same")
    new = _finished(record)
    lost = [run for run, figures in _finished(old).items() if new.get(run) != figures]
    if lost:
        named = listed(("{} {} {} seed {}".format(*run) for run in lost), 4)
        count = f"{len(lost)} finished run{'' if len(lost) == 1 else 's'}"
        raise PublishError(
            f"{target} has {count} that {name} lacks or has with other figures: {named}; --replace drops them"
        )
    if gone := sorted(_analyses(old) - _analyses(record)):
        raise PublishError(
            f"{target} has what {name} lacks: {listed((' '.join(one) for one in gone), 4)}; --replace drops it"
        )


def _analyses(record: Record) -> set[tuple[str, str]]:
    """Return what else was measured or recorded, by grid and name: analyses, and when plans were recorded."""
    return {
        (name, what)
        for name, grid in record.get("grids", {}).items()
        for what in (
            *(key for key, part in grid.items() if isinstance(part, dict) and part and key not in _OF_EVERY_GRID),
            *(f"the plan of {plan['recorded']}" for plan in grid.get("plans") or ()),
        )
    }


def _finished(record: Record) -> dict[tuple[str, str, str, int], Any]:
    """Return what was measured in each finished run, by grid, model, variant and seed."""
    try:
        return {
            (name, run["model"], run["variant"], run["seed"]): [
                *(run["summary"].get(key) for key in ("epochs", "metrics", "rotation")),
                run.get("curve"),
            ]
            for name, grid in record.get("grids", {}).items()
            for run in grid["runs"]
            if run["summary"]
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise PublishError(f"a record is not laid out as `reproduce` writes it: {error!r}") from error
