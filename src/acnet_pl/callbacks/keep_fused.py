"""KeepFused: fuse every block once for a whole validation, test or prediction."""

from __future__ import annotations

from contextlib import ExitStack

from pytorch_lightning import Callback, LightningModule, Trainer

from acnet_pl.nn import keep_fused

__all__ = ["KeepFused"]


class KeepFused(Callback):
    """Fuse every block once per validation, test or prediction, and keep the kernels until its end.

    Weights that other callbacks swap around an evaluation (EMA, SWA) are those of its first batch. Leave it out where
    weights change during an evaluation, as test-time training does.
    """

    def __init__(self) -> None:
        self._scope = ExitStack()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scope.close()
        self._scope.enter_context(keep_fused(pl_module))

    def _end(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None) -> None:
        self._scope.close()

    on_validation_start = on_test_start = on_predict_start = _begin
    on_validation_end = on_test_end = on_predict_end = on_exception = _end
