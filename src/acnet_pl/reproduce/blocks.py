"""What a report consists of, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Block", "Cell", "Commands", "Figure", "Notice", "Points", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        kind: "" for a number, "label" for words, "strong", "loss" for a gain below zero, "quiet", or "missing".
        link: Where it leads, if anywhere.
        note: What is shown on pointing at it.
    """

    text: str
    kind: str = ""
    link: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Columns may be grouped under common headings.

    Attributes:
        caption: What the table shows.
        columns: Headings.
        rows: As many cells each as there are columns.
        groups: ``(heading, number of columns)`` from left to right, over all columns; empty for none.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Figure:
    """Charts side by side, and the numbers in them."""

    caption: str
    charts: Sequence[str]
    numbers: Sequence[Table] = ()


@dataclass(frozen=True)
class Notice:
    """Something that a reader must know before the numbers."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list under a heading."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Shell commands."""

    title: str
    lines: Sequence[str]
    folded: bool = False


Block = Table | Figure | Notice | Text | Points | Commands


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    anchor: str
    blocks: Sequence[Block] = field(default=())
