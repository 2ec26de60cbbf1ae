"""Show a summary of the convolutions, and progress bars, on the terminal."""

from __future__ import annotations

import time
from collections import Counter
from importlib.util import find_spec
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelSummary, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from pytorch_lightning.utilities.types import STEP_OUTPUT
from rich import get_console
from rich.console import Console
from rich.table import Table
from torch import nn

from acnet_pl.nn import FusibleConv

__all__ = ["ConvSummary", "ProgressBar", "conv_table", "epoch_of_all"]

_LINE_SECONDS = 60.0


class ProgressBar(RichProgressBar):
    """Rich progress bar with loss and accuracies on a terminal; lines of text where a bar cannot be drawn.

    Files, pipes and notebooks without ipywidgets get one line per epoch, and one a minute within long epochs.
    """

    def __init__(self) -> None:
        console = get_console()
        drawn = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
        self._lines = not drawn
        self._last_line = 0.0
        super().__init__(refresh_rate=100 if drawn else 0, theme=RichProgressBarTheme(metrics_format=".3f"))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the timer of the lines that are printed once a minute."""
        super().on_train_epoch_start(trainer, pl_module)
        self._last_line = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if the last one is a minute old."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._lines and time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._print_line(trainer, pl_module, f"  batch {batch_idx + 1}/{self.total_train_batches}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the figures of the epoch where there is no bar."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._lines:
            self._print_line(trainer, pl_module)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule, batch: str = "") -> None:
        self._last_line = time.monotonic()
        if trainer.is_global_zero:
            figures = self.get_metrics(trainer, pl_module)
            numbers = (f"{name} {value:.3f}" for name, value in figures.items() if isinstance(value, (int, float)))
            epoch = epoch_of_all(trainer.current_epoch, trainer.max_epochs)
            print(f"epoch {epoch}{batch}", *numbers, sep="  ", flush=True)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts from 0, and the lines and the summary from 1.
        epoch = epoch_of_all(current_epoch, self.trainer.max_epochs)
        return f"Epoch {epoch}".ljust(len(self.validation_description))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar a last time, above whatever is printed next."""
        super().on_train_end(trainer, pl_module)
        self._stop_progress()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics shown beside the bar, without the version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def epoch_of_all(epoch: int, epochs: int | None) -> str:
    """Return an epoch as progress lines name it, counted from 1.

    Args:
        epoch: Counted from 0, as Lightning does.
        epochs: Their number; None or -1 is without end.

    Examples:
        >>> epoch_of_all(0, 4), epoch_of_all(0, -1)
        ('1/4', '1')
    """
    return f"{epoch + 1}/{epochs}" if epochs is not None and epochs > 0 else str(epoch + 1)


class ConvSummary(Callback):
    """Print the kinds of convolution of the network when fit starts: number of blocks, and what stayed plain.

    Lightning's own model summary is not printed beside it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Switch Lightning's summary off."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelSummary):
                callback._max_depth = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table on rank zero."""
        if trainer.is_global_zero:
            Console(markup=False, emoji=False).print(conv_table(pl_module))


def conv_table(model: nn.Module) -> Table:
    """Return a table of the convolutions by kind: number, and parameters with those of their batch norms."""
    counts: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    seen: set[nn.Module] = set()
    for module in model.modules():
        if module in seen or not isinstance(module, (FusibleConv, nn.Conv2d, nn.Linear)):
            continue
        seen.update(module.modules())
        kind = _kind(module)
        counts[kind] += 1
        parameters[kind] += sum(parameter.numel() for parameter in module.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    kinds = [*counts, "other"]
    counts["other"], parameters["other"] = 0, total - sum(parameters.values())
    table = Table("layer", "count", "parameters", title=f"{total:,} parameters in training", title_justify="left")
    for kind in kinds:
        if parameters[kind]:
            table.add_row(kind, str(counts[kind] or ""), f"{parameters[kind]:,}")
    return table


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, nn.Linear):
        return name
    assert isinstance(module, (FusibleConv, nn.Conv2d))
    height, width = module.kernel_size
    kind = f"{name} {height}×{width}"
    branches = module.branches() if isinstance(module, FusibleConv) else []
    if len(branches) > 1:
        kind += f" ({' + '.join(branch.title for branch in branches)})"
    return kind
