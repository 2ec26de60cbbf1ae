"""The article's tables and figures: which runs, which numbers, and the report."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ARTICLE", "TARGETS"]

ARTICLE = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if re.fullmatch(r"(table|fig)\d+", path.stem))
)
"""The article's tables and figures: the modules here that are called so."""

TARGETS = (*ARTICLE, "ablations", "blocks", "cheaper", "digits")
"""What can be reproduced: these, and four smaller grids."""
