"""RunWandbLogger: Weights & Biases with useful summaries and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from acnet_pl.loggers.show import unicode_alone

__all__ = ["RunWandbLogger"]

_BEST = {"val/top1": "max", "val/top5": "max", "val/loss": "min"}
_BY_EPOCH = ("val/*", "test/*", "equivalence/*", "kernels/*", "time/*", "train/top1")


class RunWandbLogger(WandbLogger):
    """Weights & Biases logger with best validation figures in the summary and epochs as axis.

    Hyper-parameters whose names begin with an underscore are not sent. Arguments as `WandbLogger`'s.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it always, and wandb warns of it always
        self._defined = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the run; on ranks other than zero it does nothing."""
        run = super().experiment
        if not self._defined and hasattr(run, "define_metric"):
            self._defined = True
            for pattern in _BY_EPOCH:
                run.define_metric(pattern, step_metric="epoch")
            for name, summary in _BEST.items():
                run.define_metric(name, step_metric="epoch", summary=summary)
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Send the user's hyper-parameters."""
        options = params if isinstance(params, Mapping) else vars(params)
        sent = {name: value for name, value in options.items() if not str(name).startswith("_")}
        super().log_hyperparams(unicode_alone(sent))
