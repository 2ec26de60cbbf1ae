"""Keep what Lightning says about itself out of the way; what it says about the run stays."""

from __future__ import annotations

import logging
import warnings

__all__ = ["keep_quiet"]


def keep_quiet() -> None:
    """Silence deprecations inside Lightning, its tips, and its advice about what acnet_pl's callbacks log."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=DeprecationWarning)
    # What acnet_pl's callbacks log is the same in all processes, or the first one's on purpose.
    advice = r"It is recommended to use `self.log\('(equivalence|rotation|kernels|time)/"
    warnings.filterwarnings("ignore", message=advice)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if _no_tips not in logger.filters:
            logger.addFilter(_no_tips)


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
