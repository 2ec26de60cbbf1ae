"""KeepFused: fuse every block once for a whole validation, test or prediction."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from acnet_pl.nn.keep import KeptKernels

__all__ = ["KeepFused"]


class KeepFused(Callback):
    """Fuse every block once per validation, test or prediction, for the steps of all its batches.

    Weights that other callbacks swap around an evaluation (EMA, SWA) are those of its batches. Leave it out where
    weights change during an evaluation through ``.data``.
    """

    def __init__(self) -> None:
        self._kernels: KeptKernels | None = None
        self._scope = ExitStack()

    def _begin_batch(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._kernels = self._kernels or KeptKernels(pl_module)
        self._scope.close()
        self._scope.enter_context(self._kernels)

    def _end_batch(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._scope.close()  # other callbacks may swap weights before the next

    def _end(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None) -> None:
        self._scope.close()
        self._kernels = None

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _begin_batch
    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _end_batch
    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = on_exception = _end
