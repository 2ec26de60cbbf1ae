"""Text for a terminal: paragraphs, and terms with their descriptions beside them."""

from __future__ import annotations

import shutil
import textwrap

__all__ = ["columns", "described"]

_WIDTH = 100


def columns(text: str) -> list[str]:
    """Return a paragraph as lines that fit the terminal."""
    return textwrap.wrap(text, _width())


def described(term: str, text: str, indent: int = 35) -> list[str]:
    """Return lines with a term at the left and its description beside it.

    Args:
        term: Term to describe.
        text: The description.
        indent: Column in which the description begins.
    """
    lines = textwrap.wrap(text, max(_width() - indent, 40), break_on_hyphens=False)
    if not lines:
        return [term]
    first = [f"{term:{indent}}{lines[0]}"] if len(term) < indent else [term, f"{'':{indent}}{lines[0]}"]
    return [*first, *(f"{'':{indent}}{line}" for line in lines[1:])]


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
