"""Write the tables of README.md, results/ and docs/ from the records, between markers in the text.

    python benchmarks/publish_tables.py            # rewrite every marked table and figure
    python benchmarks/publish_tables.py --check    # exit 1 where one differs from its record
    python benchmarks/publish_tables.py --add runs/reproduce/table1/results.json results/cifar10-jpeg/NAME.json

A marked place is ``<!-- VIEW FILE#GRID WORDS -->`` ... ``<!-- end -->``; FILE is below results/. table_views.py has the
views and says which words each takes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from record import without_paths
from table_views import INLINE, RESULTS, VIEWS, load_record

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"<!-- (\w+) ([\w./#-]+)((?: [\w.,/#-]+)*) -->(.*?)<!-- end -->", re.DOTALL)


def places() -> list[Path]:
    """Every text that may have marked places."""
    return [ROOT / "README.md", *sorted(RESULTS.rglob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """The text with each marked place written anew from its record."""

    def fill(match: re.Match[str]) -> str:
        view, source, words, _ = match.groups()
        content = VIEWS[view](load_record(source), *words.split())
        inner = content if view in INLINE else f"\n{content}\n"
        return f"<!-- {view} {source}{words} -->{inner}<!-- end -->"

    return PLACE.sub(fill, text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a text differs")
    parser.add_argument("--add", nargs=2, type=Path, metavar=("RESULTS", "FILE"), help="copy a record without paths")
    options = parser.parse_args(arguments)
    if options.add:
        record = without_paths(json.loads(options.add[0].read_text(encoding="utf-8")))
        options.add[1].parent.mkdir(parents=True, exist_ok=True)
        options.add[1].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stale = {path: new for path in places() if (new := filled(old := path.read_text(encoding="utf-8"))) != old}
    for path, new in stale.items():
        print(f"{'differs from its record' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.write_text(new, encoding="utf-8")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
