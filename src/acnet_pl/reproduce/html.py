"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from acnet_pl.reproduce.blocks import Block, Cell, Commands, Figure, Notice, Points, Section, Table, Text

__all__ = ["render_html"]


def render_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: Of the report.
        lead: What it is and how far it is, in a sentence or two.
        sections: Its parts.
    """
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    body = "\n".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>\n'
        + "\n".join(_block(block) for block in section.blocks)
        + "</section>"
        for section in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>\n'
        # An empty icon: browsers ask for one otherwise.
        f'<link rel="icon" href="data:,">\n<style>\n{css}</style></head>\n'
        f'<body><main><h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n<nav>{links}</nav>\n{body}\n'
        f"</main></body></html>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        charts = f'<div class="charts">{"".join(block.charts)}</div>'
        numbers = "".join(_table(table) for table in block.numbers)
        folded = f"<details><summary>Numbers</summary>{numbers}</details>" if numbers else ""
        return f"<figure><figcaption>{escape(block.caption)}</figcaption>{charts}{folded}</figure>"
    if isinstance(block, Notice):
        return f'<div class="notice"><strong>{escape(block.title)}</strong>{_list(block.lines)}</div>'
    if isinstance(block, Points):
        return f"<h3>{escape(block.title)}</h3>{_list(block.lines)}"
    if isinstance(block, Commands):
        code = f"<pre>{escape(chr(10).join(block.lines))}</pre>"
        if block.folded:
            return f"<details><summary>{escape(block.title)}</summary>{code}</details>"
        return f"<h3>{escape(block.title)}</h3>{code}"
    assert isinstance(block, Text)
    return f"<p>{escape(block.text)}</p>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _table(table: Table) -> str:
    starts, at = set(), 0
    for _, width in table.groups:
        starts.add(at)
        at += width
    starts.discard(0)
    groups = ""
    if table.groups:
        cells = "".join(
            f'<th colspan="{width}"{_first(at, starts)}>{escape(heading)}</th>'
            for at, (heading, width) in zip([0, *sorted(starts)], table.groups, strict=True)
        )
        groups = f'<tr class="groups">{cells}</tr>'
    words = {index for row in table.rows for index, cell in enumerate(row) if cell.kind == "label"}
    head = "".join(
        f'<th class="{"label" if index in words else ""}{" first" if index in starts else ""}">{escape(column)}</th>'
        for index, column in enumerate(table.columns)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, index in starts) for index, cell in enumerate(row)) + "</tr>" for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>"
    return (
        f'<div class="scroll"><table>{caption}<thead>{groups}<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(cell: Cell, first: bool) -> str:
    kind = f"{cell.kind} first".strip() if first else cell.kind
    text = escape(cell.text)
    if cell.link:
        text = f'<a href="{escape(cell.link, quote=True)}">{text}</a>'
    note = f' title="{escape(cell.note, quote=True)}"' if cell.note else ""
    return f'<td class="{kind}"{note}>{text}</td>' if kind else f"<td{note}>{text}</td>"


def _first(at: int, starts: set[int]) -> str:
    return ' class="first"' if at in starts else ""
