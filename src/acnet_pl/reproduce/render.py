"""Render a report as one HTML file or as Markdown, from templates."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from acnet_pl.reproduce.elements import Section

__all__ = ["render"]

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a report as text.

    Args:
        template: ``report.html`` or ``report.md``; each has a branch for every kind of block.
        title: Title of the report.
        lead: What it is and how far it is, in a sentence or two.
        sections: Its parts.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(kind=lambda block: type(block).__name__, image=_image, plain=_plain)
    return environment.get_template(f"{template}.j2").render(title=title, lead=lead, sections=sections)


def _image(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return "".join(f"\\{character}" if character in "|*_<>`[]" else character for character in " ".join(text.split()))
