"""Check before training that monitored metrics are logged, and validated where they are of the validation."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pytorch_lightning import Trainer

__all__ = ["check_monitor", "check_monitors"]

_KNOWN_PACKAGES = ("pytorch_lightning.", "lightning.", "acnet_pl.")
_OF_CALLBACKS = ("equivalence/", "kernels/", "time/")  # what acnet_pl's callbacks log in training
_OF_LIGHTNING = ("epoch", "step")


def check_monitors(trainer: Trainer, metrics: Iterable[str]) -> None:
    """Check the `monitor` of every callback, such as ModelCheckpoint and EarlyStopping.

    Where there are callbacks of other packages, which may log anything, nothing is checked.

    Args:
        trainer: Its callbacks are looked at.
        metrics: What the LightningModule logs in ``fit``.

    Raises:
        ValueError: No metric has this name, or it is of a validation that never happens.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not all(type(callback).__module__.startswith(_KNOWN_PACKAGES) for callback in callbacks):
        return
    for callback in callbacks:
        if isinstance(monitor := getattr(callback, "monitor", None), str):
            check_monitor(trainer, monitor, metrics, type(callback).__name__)


def check_monitor(trainer: Trainer, monitor: str, metrics: Iterable[str], watcher: str) -> None:
    """Raise a ValueError if no logged metric has this name, or if it is certain that its validation never happens.

    Args:
        trainer: Its options are looked at.
        monitor: The name.
        metrics: What the LightningModule logs in ``fit``.
        watcher: Name of what watches it, for the message.
    """
    known = [*metrics, *_OF_LIGHTNING]
    if monitor.startswith("val/") and monitor in known and (why := _why_no_validation(trainer)):
        raise ValueError(
            f"{watcher} has monitor={monitor!r}, which no validation will measure: {why}; validate within the "
            "training, or monitor a metric of it, such as train/top1"
        )
    if monitor in known or monitor.startswith(_OF_CALLBACKS):
        return
    near = get_close_matches(monitor.replace("_", "/").replace("acc", "top1"), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"{watcher} has monitor={monitor!r}, but no metric has this name; there are {', '.join(metrics)}{hint}"
    )


def _why_no_validation(trainer: Trainer) -> str:
    """Return why a training certainly ends without a validation, or ""."""
    interval, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches is 0"
    if interval is not None and epochs is not None and 0 < epochs < interval and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return f"trainer.check_val_every_n_epoch (={interval}) is more than trainer.max_epochs (={epochs})"
    return ""
