"""What a run shows on the terminal: a summary of its convolutions, and progress bars."""

from __future__ import annotations

from collections import Counter

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console
from rich.table import Table
from torch import nn

from acnet_pl.nn import FusibleConv

__all__ = ["ConvSummary", "ProgressBar", "conv_table"]


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar with loss and accuracies."""

    def __init__(self) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_format=".3f"))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What is shown beside the bar: not the version, which the run's folder tells."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class ConvSummary(Callback):
    """Print, when fit starts, which kinds of convolution the network has: how many blocks, and what stayed plain."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table on rank zero."""
        if trainer.is_global_zero:
            Console(markup=False, emoji=False).print(conv_table(pl_module))


def conv_table(model: nn.Module) -> Table:
    """The model's convolutions by kind: how many, and their parameters with those of their batch norms."""
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
