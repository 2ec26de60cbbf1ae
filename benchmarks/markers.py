"""Places of a text that tables are written into: ``<!-- VIEW FILE#GRID WORDS -->`` ... ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

END = "<!-- end -->"
FORM = "<!-- VIEW FILE#GRID WORDS -->"
_COMMENT = re.compile(r"<!--(.*?)(?:-->|\Z)", re.DOTALL)
_OPENING = re.compile(r"<!-- (\w+) ([\w./#-]+)((?: [\w.,/#-]+)*) -->")


@dataclass(frozen=True)
class Marker:
    """Marked place of a text.

    Attributes:
        opening: The comment that opens it.
        view: Name of the view.
        source: ``FILE#GRID`` or ``FILE`` of the record.
        words: Further words that the view takes.
        line: Line of the opening, from 1.
        start: Position of the first character between the comments.
        end: Position after the last one.
    """

    opening: str
    view: str
    source: str
    words: tuple[str, ...]
    line: int
    start: int
    end: int


def find_markers(text: str, name: str, views: Collection[str]) -> tuple[list[Marker], list[str]]:
    """Find the marked places of a text, and what is wrong with its markers.

    Args:
        text: The text.
        name: Its name in messages.
        views: Names of the views, which tell a mistyped marker from an ordinary comment.

    Returns:
        The places, and a sentence for each fault with name and line.
    """
    markers: list[Marker] = []
    faults: list[str] = []
    opened: re.Match[str] | None = None
    is_faulty = False  # a comment with a fault stands for the opening of the next end
    comments = list(_COMMENT.finditer(text))

    def line_of(comment: re.Match[str]) -> int:
        return text.count("\n", 0, comment.start()) + 1

    def fault(comment: re.Match[str], what: str) -> None:
        faults.append(f"{name}:{line_of(comment)}: {_shown(comment)} {what}")

    for index, comment in enumerate(comments):
        if comment[0] == END:
            if opened is not None:
                view, source, words = _groups(opened)
                place = (opened.end(), comment.start())
                markers.append(Marker(opened[0], view, source, words, line_of(opened), *place))
            elif not is_faulty:
                fault(comment, "closes no marker")
            opened, is_faulty = None, False
            continue
        is_last = index + 1 == len(comments)
        closes_here = not is_last and comments[index + 1][0] == END
        if comment[1].strip("\n !-").casefold() == "end":
            fault(comment, f"is not written as {END}")
            opened, is_faulty = None, False
            continue
        if opened is not None:
            fault(opened, f"has no {END} before the next comment, {_shown(comment)} in line {line_of(comment)}")
        opened, is_faulty = None, is_faulty or opened is not None
        if _is_marker(comment[0], views, closes_here):
            opened, is_faulty = comment, False
        elif _resembles_marker(comment[1], views):
            fault(comment, f"is not written exactly as a marker, {FORM} with single spaces")
            is_faulty = True
    if opened is not None:
        fault(opened, f"has no {END} after it")
    return markers, faults


def _shown(comment: re.Match[str]) -> str:
    """Return the beginning of a comment in one line."""
    return (" ".join(comment[0].split()) if "\n" in comment[0] else comment[0])[:120]


def _groups(opening: re.Match[str]) -> tuple[str, str, tuple[str, ...]]:
    match = _OPENING.fullmatch(opening[0])
    assert match is not None
    return match[1], match[2], tuple(match[3].split())


def _is_marker(comment: str, views: Collection[str], closes_here: bool) -> bool:
    """Return True for an exactly written marker, also of a view that does not exist."""
    match = _OPENING.fullmatch(comment)
    if match is None:
        return False
    return ".json#" in match[2] or closes_here or _resembles_marker(comment[4:-3], views, match[1] in views)


def _resembles_marker(content: str, views: Collection[str], is_exact: bool = False) -> bool:
    """Return True for a comment that begins with a view's name, or nearly, and names a record after it or nothing."""
    match = re.match(r"\W*(\w+)\W*", content)
    if match is None:
        return False
    word, rest = match[1].casefold(), content[match.end() :].split()
    if not rest:
        return word in views and not is_exact
    names_record = ".json" in rest[0].casefold() or "#" in rest[0]
    return names_record and bool(get_close_matches(word, views, 1, 0.75))
