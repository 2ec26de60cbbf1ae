"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from acnet_pl.reproduce.elements import Section

__all__ = ["render_html"]

_TEMPLATES = Path(__file__).with_name("templates")


def render_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Fill templates/report.html.j2, which has a macro for each kind of block.

    Args:
        title: Of the report.
        lead: What it is and how far it is, in a sentence or two.
        sections: Its parts.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["image"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return environment.get_template("report.html.j2").render(title=title, lead=lead, sections=sections)
