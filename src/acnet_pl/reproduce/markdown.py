"""A report as Markdown: tables instead of charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from acnet_pl.reproduce.elements import Block, Cell, Commands, Figure, Headline, Notice, Points, Section, Table, Text

__all__ = ["render_markdown"]


def render_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The document.

    Args:
        title: Of the report.
        lead: What it is and how far it is.
        sections: Its parts.
    """
    parts = [f"# {title}", lead]
    for section in sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Table):
        yield _table(block)
    elif isinstance(block, Figure):
        if block.numbers:
            yield block.caption
        yield from map(_table, block.numbers)
    elif isinstance(block, Headline):
        yield from (f"**{_plain(line)}**" for line in block.lines)
    elif isinstance(block, Notice):
        yield "\n".join([f"> **{_plain(block.title)}**", *(f"> - {_plain(line)}" for line in block.lines)])
    elif isinstance(block, Points):
        yield "\n".join([f"{block.title}:", "", *(f"- {_plain(line)}" for line in block.lines)])
    elif isinstance(block, Commands):
        yield "\n".join([f"{block.title}:", "", "```sh", *block.lines, "```"])
    else:
        assert isinstance(block, Text)
        yield _plain(block.text)


def _table(table: Table) -> str:
    pairs = zip(table.headings, table.columns, strict=True)
    headings = [f"{group}: {column}" if group else column for group, column in pairs]
    ruler = [":--" if index in table.words else "--:" for index in range(len(headings))]
    lines = [_row(headings), _row(ruler), *(_row([_cell(cell) for cell in row]) for row in table.rows)]
    return f"{_plain(table.caption)}\n\n" + "\n".join(lines)


def _cell(cell: Cell) -> str:
    text = _plain(cell.text)
    if cell.link:
        return f"[{text}](<{cell.link}>)"
    return f"**{text}**" if cell.kind in ("gain", "loss") else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text in which nothing is taken for Markdown."""
    return "".join(f"\\{character}" if character in "|*_<>`" else character for character in text)
