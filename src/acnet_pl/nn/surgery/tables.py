"""Format tables as text and as HTML, and reasons as one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from acnet_pl.nn.surgery.trace import listed

__all__ = ["html_table", "reasons_line", "text_table"]


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


def reasons_line(left: Iterable[tuple[str, str]], most: int = 3) -> str:
    """Join reasons with the names that they hold for, the most frequent first.

    Args:
        left: Names, each with its reason.
        most: Number of reasons to give; the others are counted.

    Examples:
        >>> reasons_line([("a", "1×1 kernel"), ("b", "excluded"), ("c", "1×1 kernel")])
        '`a`, `c`: 1×1 kernel; `b`: excluded'
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in left:
        names[reason].append(name)
    ordered = sorted(names.items(), key=lambda item: -len(item[1]))
    shown = "; ".join(f"{listed(having, 2)}: {reason}" for reason, having in ordered[:most])
    more = len(ordered) - most
    return shown + (f"; and {more} more reason{'s' * (more > 1)}" if more > 0 else "")
