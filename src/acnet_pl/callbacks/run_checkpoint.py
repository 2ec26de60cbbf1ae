"""RunCheckpoint: write checkpoints from which a killed run continues unchanged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loops.progress import _StartedTracker
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info

from acnet_pl.callbacks.averages import require_averaging, resume_averaging
from acnet_pl.callbacks.before_validation import BeforeValidation
from acnet_pl.callbacks.best_checkpoints import check_names, relocate_checkpoints
from acnet_pl.callbacks.metric_states import load_metric_states, metric_states
from acnet_pl.callbacks.newest_checkpoint import KEY, LAST, PREVIOUS
from acnet_pl.callbacks.plain_loaders import PlainLoaders, seed_everything, stateful_states
from acnet_pl.callbacks.sigterm import exit_terminated, on_sigterm
from acnet_pl.checkpoint import AtomicCheckpointIO, check_readable, install_io
from acnet_pl.loggers import MetricsCSV

__all__ = ["RunCheckpoint"]

_EXCHANGE_EVERY = 10  # steps, between processes


class RunCheckpoint(Callback):
    """Write ``checkpoints/last.ckpt`` and keep the one before it as ``previous.ckpt``.

    Every checkpoint is written where one training batch is wholly done, logged and validated and the next has not
    begun, and says what Lightning's own leaves out: the running metrics of an epoch, the rows of ``metrics.csv``, the
    counters of steps. Random numbers need no saving: before every batch torch's, NumPy's and Python's generators are
    seeded from the run's seed, the process and the number of the batch. On a CPU, with ``trainer.deterministic``, a
    resumed run ends with the same bits as an undisturbed one.

    That takes a training loader with ``state_dict``, or one ordinary DataLoader of a map-style dataset: its order and
    transforms are seeded by epoch and batch (`PlainLoaders`), and the batches of the epoch that were trained are drawn
    again and thrown away. Torch generators in loader, sampler and dataset are kept. With a stream, another iterable or
    several loaders the position is unknown: checkpoints are then written only at ends of epochs (of a stream without
    length also between, and its data begin anew). This, generators of other kinds, and persistent workers, whose
    random transforms differ after resuming, are warned of.

    On SIGTERM a checkpoint is written after the batch at hand, of validation too (with several processes within 10
    steps), and the process ends with exit code 143. Values that are logged by ``self.log(..., on_epoch=True)`` as plain
    numbers instead of torchmetrics are averaged over the resumed part of an epoch only.

    Files are written by `AtomicCheckpointIO`, which takes the place of Lightning's own. ``fit(ckpt_path=...)`` with a
    file of the same ``default_root_dir`` goes on with that run. ModelCheckpoint may be used beside it for the best
    weights.

    Args:
        every_n_epochs: Epochs between checkpoints.
        every_n_steps: Optimisation steps between checkpoints.
        every_n_minutes: Minutes between checkpoints.
        enabled: False writes none, and a killed run has to start again.

    Attributes:
        last_path: The file that was written last.
        resume_from: Checkpoint of this same run from which it goes on; None where it is new.

    Raises:
        ValueError: Before the first step: the trainer has a checkpoint plugin of its own, a ModelCheckpoint would write
            the same files, or the LightningModule has hyper-parameters that could not be read back without executing
            code.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_n_minutes: float = 15.0,
        enabled: bool = True,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` (={every_n_epochs}) must be at least 1")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"`every_n_steps` (={every_n_steps}) must be at least 1, or null for none")
        if every_n_minutes <= 0:
            raise ValueError(f"`every_n_minutes` (={every_n_minutes}) must be positive")
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.enabled = enabled
        self.last_path: str | None = None
        self.resume_from: str | None = None
        self._folder = Path()
        self._seed = 0
        self._resumed: dict[str, Any] | None = None
        self._due = self._writing = self._trained = self._terminated = self._stopping = False
        self._loaders: list[Any] | None = None
        self._plain_loaders, self._postponed = PlainLoaders(), False
        self._written_at = 0.0
        self._before_validation = BeforeValidation()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that checkpoints can be written and read, and that all processes resume from the same one."""
        self._folder = Path(str(trainer.strategy.broadcast(str(trainer.default_root_dir)))) / "checkpoints"
        self.enabled &= not trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.enabled and stage == "fit":
            install_io(trainer)
            check_readable(pl_module)
            if self.resume_from is None and trainer.ckpt_path:
                given = Path(trainer.ckpt_path).resolve()
                self.resume_from = str(given) if given.parent == self._folder.resolve() else None
        first = trainer.strategy.broadcast(self.resume_from)
        if not trainer.strategy.reduce_boolean_decision(first == self.resume_from):
            raise ValueError(
                f"process {trainer.global_rank} was to go on from {self.resume_from} and process 0 from {first}; give "
                "--resume the folder of the run instead of auto"
            )
        if isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            trainer.strategy.checkpoint_io.defers_removal = self.enabled and stage == "fit"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` stored."""
        relocate_checkpoints(trainer, checkpoint, self._folder.parent)
        self._resumed = checkpoint.get(KEY)
        if (
            self._resumed is not None and self.resume_from is None
        ):  # a new run that starts from another one's checkpoint
            self._resumed |= {"seed": torch.initial_seed(), "rows": 0, "trained": False}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rewind ``metrics.csv``; skip training if the checkpoint was written after it."""
        if self.enabled:
            check_names(trainer, self._folder, (LAST, PREVIOUS))
        resumed = self._resumed or {}
        self._seed = resumed.get("seed", torch.initial_seed())
        self._trained = resumed.get("trained", False)
        if self._trained:
            trainer.should_stop, self.last_path = True, str(self._folder / LAST)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and trainer.is_global_zero:
                logger.rewind(resumed.get("rows", 0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the loader to its position. From here on SIGTERM waits for the end of the batch."""
        require_averaging(trainer)
        resume_averaging(trainer, pl_module)
        loop = trainer.fit_loop
        loop.setup_data()  # if loaders are made anew every few epochs: not later, as nothing would be told of it
        if loop._combined_loader_states_to_load and loop._data_fetcher is not None:
            # Counting the steps of a schedule has set the loader up before Lightning knew that it resumes.
            loop._load_combined_loader_states()
            iter(loop._data_fetcher)
        self._plain_loaders.install(trainer, self._seed, self.enabled)
        self._plain_loaders.start(trainer, (self._resumed or {}).get("generators"))
        self._written_at = time.monotonic()
        on_sigterm(self._note_sigterm if self.enabled else exit_terminated)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the start of an epoch in memory if its validation comes within a few batches."""
        self._plain_loaders.install(trainer, self._seed, self.enabled)  # new ones, if they are made anew every epoch
        if self.enabled and self._before_validation.plan(trainer, 0):
            self._loaders = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write a due checkpoint between two batches."""
        loop = trainer.fit_loop.epoch_loop
        if self._resumed is not None:
            # After a resume Lightning's counts are off by one here, depending on how this point was reached.
            loop._batches_that_stepped = self._resumed["steps_logged"]
            batches = loop.batch_progress.total
            assert isinstance(batches, _StartedTracker)
            batches.ready = batches.started + 1
            load_metric_states(pl_module, self._resumed["metrics"] if trainer.is_global_zero else {})
            self._resumed = None
        seed_everything(f"{self._seed}/{trainer.global_rank}/{loop.batch_progress.total.ready}")
        if self._due:
            self._due = False
            self._write(trainer)
        if self._stopping:
            self._stop()
        self._before_validation.keep(trainer, batch_idx, lambda: self._dump(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether a checkpoint is to be written before the next batch."""
        ends_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not self.enabled or (not ends_epoch and (batch_idx + 1) % trainer.accumulate_grad_batches):
            return  # checkpoints hold no half-accumulated gradients
        self._due = ends_epoch and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if self.every_n_steps is not None:
            self._due |= trainer.global_step % self.every_n_steps == 0
        late = time.monotonic() - self._written_at > 60 * self.every_n_minutes
        self._stopping = self._any(trainer, self._terminated)
        self._due |= self._any(trainer, late) or self._stopping
        if self._plain_loaders.ends_only:
            self._postponed |= self._due
            self._due, self._postponed = ends_epoch and self._postponed, not ends_epoch and self._postponed
            return
        if self._due | (not ends_epoch and self._before_validation.plan(trainer, batch_idx + 1)):
            # The loader's state is right only now: before the next batch begins, the loader has counted it.
            self._loaders = None if ends_epoch else stateful_states(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out; checkpoints written at other moments are never resumed from."""
        state = checkpoint["loops"]["fit_loop"]["state_dict"]
        if "combined_loader" in state:  # which has something of each loader of `PlainLoaders`
            state["combined_loader"] = stateful_states(trainer)
        if not self._writing:
            return
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV) and trainer.is_global_zero]
        checkpoint[KEY] = {
            "steps_logged": trainer.fit_loop.epoch_loop._batches_that_stepped,
            "metrics": metric_states(pl_module),
            "rows": max((file.rows() for file in files), default=0),
            "seed": self._seed,
            "trained": self._trained,
            "generators": self._plain_loaders.states(trainer, self._trained),
        }
        loop = checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False
        loop["state_dict"].pop("combined_loader", None)
        if self._loaders:
            loop["state_dict"]["combined_loader"] = self._loaders

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint that a run killed while fusing or testing resumes from."""
        self._trained, self._loaders = True, None
        if self.enabled:
            self._write(trainer)
        on_sigterm(exit_terminated)
        if trainer.strategy.reduce_boolean_decision(self._terminated, all=False):
            self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write nothing on SIGTERM outside of training."""
        if trainer.state.fn != TrainerFn.FITTING:
            on_sigterm(exit_terminated)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the state before this validation on SIGTERM; one batch is then trained again."""
        if self._terminated and self._before_validation.write(trainer, self._folder / LAST, self._folder / PREVIOUS):
            self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the state before the validation."""
        self._before_validation.drop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write nothing on SIGTERM from here on."""
        on_sigterm(exit_terminated)

    def _write(self, trainer: Trainer) -> None:
        path = self._folder / LAST
        self._writing = True
        try:
            trainer.save_checkpoint(path, weights_only=False, storage_options={"previous": self._folder / PREVIOUS})
        finally:
            self._writing = False
        if trainer.is_global_zero and isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            trainer.strategy.checkpoint_io.remove_unwanted()
        self._written_at, self.last_path = time.monotonic(), str(path)

    def _dump(self, trainer: Trainer) -> dict[str, Any]:
        self._writing = True
        try:
            return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        finally:
            self._writing = False

    def _stop(self) -> None:
        path = self._folder / LAST
        rank_zero_info(
            f"Stopped by SIGTERM; --resume auto {f'goes on from {path}' if path.exists() else 'begins anew'}"
        )
        exit_terminated()

    def _any(self, trainer: Trainer, decision: bool) -> bool:
        if trainer.world_size == 1:
            return decision
        if trainer.global_step % _EXCHANGE_EVERY:
            return False
        return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))

    def _note_sigterm(self, *_: Any) -> None:
        self._terminated = True
