"""Show a summary of the convolutions, and progress bars, on the terminal."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelSummary, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich import get_console
from rich.console import Console
from rich.table import Table
from torch import nn

from acnet_pl.nn import FusibleConv

__all__ = ["ConvSummary", "ProgressBar", "conv_table"]


class ProgressBar(RichProgressBar):
    """Rich progress bar with loss and accuracies; one line per epoch in notebooks without ipywidgets."""

    def __init__(self) -> None:
        # There rich would show an empty output.
        self._lines = get_console().is_jupyter and find_spec("ipywidgets") is None
        super().__init__(refresh_rate=0 if self._lines else 100, theme=RichProgressBarTheme(metrics_format=".3f"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the figures of the epoch in notebooks."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._lines and trainer.is_global_zero:
            figures = self.get_metrics(trainer, pl_module)
            numbers = (f"{name} {value:.3f}" for name, value in figures.items() if isinstance(value, (int, float)))
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *numbers, sep="  ")

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
