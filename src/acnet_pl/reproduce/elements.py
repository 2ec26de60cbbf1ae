"""Elements of a report, before they become HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from acnet_pl.reproduce.plots import Chart

__all__ = ["Block", "Cell", "Commands", "Figure", "Headline", "Notice", "Points", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Attributes:
        text: Text in the cell.
        kind: "" for a number, "label" for words, "quiet", "missing"; of gains, "gain" or "loss" where the interval is
            above or below zero, "fall" for one below zero whose interval includes it.
        link: Where it leads, if anywhere.
        note: Text shown when the pointer is on the cell.
    """

    text: str
    kind: str = ""
    link: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Table whose columns may be grouped under common headings.

    Attributes:
        caption: What the table shows.
        columns: Headings.
        rows: As many cells each as there are columns.
        groups: ``(heading, number of columns)`` from left to right, over all columns; empty for none.
        cards: On a narrow screen each row becomes a card, so that no column is out of sight.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    cards: bool = False

    @property
    def words(self) -> set[int]:
        """Return the columns that hold words."""
        return {index for row in self.rows for index, cell in enumerate(row) if cell.kind == "label"}

    @property
    def headings(self) -> list[str]:
        """Return the group over each column; empty without groups."""
        return [heading for heading, width in self.groups for _ in range(width)] or [""] * len(self.columns)

    @property
    def full_headings(self) -> list[str]:
        """Return each column's heading with that of its group."""
        pairs = zip(self.headings, self.columns, strict=True)
        return [f"{group}: {column}" if group else column for group, column in pairs]

    @property
    def labels(self) -> list[str]:
        """Return a label for each column that is unique, with the group where headings repeat."""
        pairs = zip(self.headings, self.columns, strict=True)
        return [f"{group}: {column}" if self.columns.count(column) > 1 else column for group, column in pairs]

    @property
    def starts(self) -> set[int]:
        """Return the columns that begin a group, except the first."""
        return {*accumulate(width for _, width in self.groups)} - {len(self.columns)}


@dataclass(frozen=True)
class Figure:
    """Charts side by side, and their numbers."""

    caption: str
    charts: Sequence[Chart]
    numbers: Sequence[Table] = ()


@dataclass(frozen=True)
class Headline:
    """Main results, one sentence each."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """Warning that a reader must see before the numbers."""

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
    collapsed: bool = False


Block = Headline | Table | Figure | Notice | Text | Points | Commands


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    anchor: str
    blocks: Sequence[Block] = field(default=())
