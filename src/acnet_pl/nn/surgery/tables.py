"""Format tables as text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["html_table", "text_table"]


def text_table(lines: Sequence[tuple[str, ...]]) -> str:
    """Align the columns of a table; the first line is the header.

    Examples:
        >>> print(text_table([("a", "long"), ("1", "2")]))
        a  long
        -  ----
        1  2
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in ruled
    )


def html_table(lines: Sequence[tuple[str, ...]], caption: str) -> str:
    """Return an HTML table with a caption below it, for notebooks."""
    head, *rows = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(caption)}</p>"
