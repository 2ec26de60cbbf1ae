"""Write the tables of README.md, results/ and docs/ from the records, between markers in the text.

    python benchmarks/publish_tables.py            # rewrite every marked table and figure
    python benchmarks/publish_tables.py --check    # write nothing; exit 1 where one differs from its record
    python benchmarks/publish_tables.py --add runs/reproduce/table1/results.json results/cifar10-jpeg/NAME.json

A marked place is ``<!-- VIEW FILE#GRID WORDS -->`` ... ``<!-- end -->``; FILE is below results/. table_views.py has the
views and says which words each takes. Nothing is written if a marker or record is at fault; the exit code is 2.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from acnet_pl.atomic import atomic_path
from lookup import PublishError, chosen
from markers import Marker, find_markers
from private_paths import without_paths
from record_files import Records, read_record, refuse_loss
from table_views import GRID_VIEWS, INLINE, VIEWS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def places() -> list[Path]:
    """Return every text that may have marked places."""
    return [ROOT / "README.md", *sorted(RESULTS.rglob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str, name: str = "text", records: Records | None = None) -> str:
    """Return the text with each marked place written anew from its record.

    Args:
        text: The text.
        name: Its name in messages.
        records: The records; those of results/ by default.

    Raises:
        PublishError: A marker cannot be filled; the message has a line for each.
    """
    records = records or Records(RESULTS)
    markers, faults = find_markers(text, name, VIEWS)
    pieces, position = [], 0
    for marker in markers:
        try:
            pieces += [text[position : marker.start], _content(marker, records)]
        except PublishError as error:
            faults.append(f"{name}:{marker.line}: {marker.opening}: {error}")
        position = marker.end
    if faults:
        raise PublishError("\n".join(faults))
    return "".join([*pieces, text[position:]])


def by_hand(text: str) -> str:
    """Return the text without what is written from records."""
    pieces, position = [], 0
    for marker in find_markers(text, "text", VIEWS)[0]:
        pieces.append(text[position : marker.start])
        position = marker.end
    return "".join([*pieces, text[position:]])


def _content(marker: Marker, records: Records) -> str:
    """Return what stands between the two comments of a marker."""
    view = chosen(VIEWS, marker.view, "view")
    needs_grid = marker.view in GRID_VIEWS
    record = records.load(marker.source, needs_grid)
    words = [records.load(word, needs_grid) if ".json" in word else word for word in marker.words]
    try:
        inspect.signature(view).bind(record, *words)
    except TypeError as error:
        takes = " ".join(map(_shown, [*inspect.signature(view).parameters.values()][1:])) or "no words"
        raise PublishError(f"{marker.view} takes {takes} after the record, got {len(words)} words") from error
    try:
        content = view(record, *words)
    except PublishError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        raise PublishError(f"the record is not of the form that {marker.view} reads: {error!r}") from error
    if "<!--" in content or "-->" in content:
        raise PublishError("the record has a comment in what would be written")
    return content if marker.view in INLINE else f"\n{content}\n"


def _shown(parameter: inspect.Parameter) -> str:
    """Return a word that a view takes as a command's help shows it."""
    name = parameter.name.upper()
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"{name} ..."
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare all texts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a text differs (with --add: would differ)"
    )
    parser.add_argument("--add", nargs=2, type=Path, metavar=("RESULTS", "FILE"), help="copy a record without paths")
    parser.add_argument(
        "--replace", action="store_true", help="with --add: replace FILE even if runs that RESULTS lacks are lost"
    )
    options = parser.parse_args(arguments)
    if options.replace and not options.add:
        parser.error("--replace belongs to --add")
    try:
        new = _changed(options.add, options.replace)
    except PublishError as error:
        print(error, file=sys.stderr)
        return 2
    for path, text in new.items():
        print(f"{'differs from its record' if options.check else 'written'}: {_name(path)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
    return int(options.check and bool(new))


def _changed(add: Sequence[Path] | None, replace: bool) -> dict[Path, str]:
    """Return the new text of each file that changes, the added record first."""
    new: dict[Path, str] = {}
    records = Records(RESULTS)
    if add:
        source, target = add
        record = without_paths(read_record(source))
        if target.is_dir():
            raise PublishError(f"{target} is a folder; name the file, such as {target / 'NAME.json'}")
        if not replace:
            refuse_loss(target, record, str(source))
        text = json.dumps(record, indent=1) + "\n"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            new[target] = text
        if target.resolve().is_relative_to(RESULTS.resolve()):
            records = Records(RESULTS, {target.resolve().relative_to(RESULTS.resolve()).as_posix(): record})
    faults = []
    for path in places():
        old = path.read_text(encoding="utf-8")
        try:
            if (text := filled(old, _name(path), records)) != old:
                new[path] = text
        except PublishError as error:
            faults.append(str(error))
    if faults:
        raise PublishError("\n".join(faults))
    return new


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
