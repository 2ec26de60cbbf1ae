"""KeepFused: fuse every block once for a whole validation, test or prediction."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from acnet_pl.nn import keep_fused

__all__ = ["KeepFused"]


class KeepFused(Callback):
    """Fuse every block once per validation, test or prediction, and keep the kernels from its first batch to its last.

    Weights that other callbacks swap around an evaluation (EMA, SWA) are those of its batches. Leave it out where
    weights change during an evaluation by way of ``.data``.
    """

    def __init__(self) -> None:
        self._scope: ExitStack | None = None

    def _begin(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if self._scope is None:
            self._scope = ExitStack()
            self._scope.enter_context(keep_fused(pl_module))

    def _end(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None) -> None:
        if self._scope is not None:
            self._scope.close()
            self._scope = None

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _begin
    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = on_exception = _end
