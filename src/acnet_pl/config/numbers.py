"""Check numbers that Lightning and PyTorch take, and with which a training fails or silently does something else."""

from __future__ import annotations

import math
from typing import Any

from acnet_pl.config.errors import UsageError
from acnet_pl.config.settings import Setting, text_of

__all__ = ["check_number"]

# The least value of numeric options of the trainer that Lightning does not check, and what it means.
_LEAST: dict[str, tuple[float, str]] = {
    "trainer.accumulate_grad_batches": (1, "1 takes a step after every batch"),
    "trainer.check_val_every_n_epoch": (1, "1 validates after every epoch"),
    "trainer.gradient_clip_val": (0, "null clips no gradients"),
    "trainer.log_every_n_steps": (0, "0 logs no steps"),
    "trainer.num_sanity_val_steps": (-1, "-1 takes all batches, 0 none"),
}
_INTERVAL = "trainer.val_check_interval"
_FINITE = ("model.optimizer.", "model.schedule.", "model.bias_lr_multiplier", "model.label_smoothing")


def check_number(setting: Setting) -> None:
    """Check one setting.

    Raises:
        UsageError: It is a number that certainly makes no sense for its option.
    """
    number = _number(setting.value)
    if number is None:
        return
    if setting.name.startswith(_FINITE) and not math.isfinite(number):
        raise UsageError(f"{setting}: expected a finite number, got {setting.value}")
    least, meaning = _LEAST.get(setting.name, (-math.inf, ""))
    if number < least or (meaning and math.isnan(number)):
        raise UsageError(f"{setting} must be at least {least}, got {setting.value}; {meaning}")
    if setting.name == _INTERVAL and not number > 0:
        raise UsageError(f"{setting} must be more than 0, got {setting.value}; 1.0 validates after every epoch")


def _number(value: Any) -> float | None:
    """Return a plain value as the number that YAML or Python reads in it; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float((text_of(value) or "").replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return None
