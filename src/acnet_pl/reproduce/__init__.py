"""Tables and figures of the article: their runs, their numbers, and the report."""

from __future__ import annotations

import re

from acnet_pl.config.discovery import installed, modules

__all__ = ["ANALYSES", "ARTICLE", "TARGETS"]

TARGETS = {**modules("reproduce.grids"), **installed("grids")}
"""Grids that can be reproduced: dotted path of each module with a `GRID`, by name."""

ARTICLE = tuple(name for name in TARGETS if re.fullmatch(r"(table|fig)\d+", name))
"""The article's tables and figures."""

ANALYSES = {**modules("reproduce.analyses"), **installed("analyses")}
"""Analyses of trained networks: dotted path of each module with an `ANALYSIS`, by name."""
