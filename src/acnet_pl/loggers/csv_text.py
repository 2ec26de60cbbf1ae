"""Text for CSV files that people open in spreadsheets."""

from __future__ import annotations

__all__ = ["spreadsheet_text"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_text(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula and carry out.

    Examples:
        >>> spreadsheet_text("=cmd()"), spreadsheet_text("cat"), spreadsheet_text("-1")
        ("'=cmd()", 'cat', '-1')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
