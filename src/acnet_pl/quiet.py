"""Silence Lightning's remarks about itself; messages about the run stay."""

from __future__ import annotations

import logging
import warnings

__all__ = ["keep_advice_quiet", "keep_quiet", "keep_sizes_quiet"]


def keep_quiet() -> None:
    """Silence deprecations inside Lightning, its tips, and its advice on metrics of acnet_pl's callbacks."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=DeprecationWarning)
    # What acnet_pl's callbacks log is the same in all processes, or the first one's on purpose.
    advice = r"It is recommended to use `self.log\('(equivalence|rotation|kernels|time)/"
    warnings.filterwarnings("ignore", message=advice)
    # Class names in scripts that matplotlib's font lacks are drawn as boxes.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if _no_tips not in logger.filters:
            logger.addFilter(_no_tips)


def keep_advice_quiet() -> None:
    """Silence Lightning's advice on options that the command line sets itself."""
    for message in (".*args parameter is intended to run from within Python.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    warnings.filterwarnings("ignore", message=".*add_instantiator.*")
    # A few batches an epoch are logged once an epoch all the same.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # DDP warns of the strides of a 1×1 kernel, which make no difference.
    warnings.filterwarnings("ignore", message=r"Grad strides do not match[\s\S]*\[\d+, \d+, 1, 1\]")


def keep_sizes_quiet() -> None:
    """Silence Pillow's warning of large images: up to twice that size they are read, and larger ones are an error."""
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit", category=RuntimeWarning)


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
