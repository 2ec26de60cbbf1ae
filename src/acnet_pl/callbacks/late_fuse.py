"""LateFuse: train the first epochs as an ACNet, the rest as the plain network that it fuses to."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import deprecated

from acnet_pl.analysis import Inputs
from acnet_pl.callbacks.averages import averages
from acnet_pl.callbacks.display import epoch_of_all
from acnet_pl.callbacks.subject import Subject, few
from acnet_pl.nn import FusibleConv
from acnet_pl.nn.surgery.late import Moments, blocks_of, fuse_block, fused_velocity, output_moments
from acnet_pl.nn.surgery.late_checks import refuse_unfusable
from acnet_pl.nn.surgery.replacing import replace_modules

__all__ = ["LateFold", "LateFuse"]


class LateFuse(Callback):
    """Replace every block by a convolution with one batch norm at the start of an epoch, and train on.

    In eval mode the network computes the same before and after. The batch norms get the statistics of the first batch
    of the epoch, over all processes, and γ and β that undo them; a block with one batch norm after the sum keeps that.
    Momentum is carried over: the new kernel moves as the fused one did, at fixed statistics, β as the sum of the
    branches' β did, and γ begins at rest. Optimizers with other state than momentum begin anew for the new layers. The
    schedule goes on. Checkpoints from then on hold the plain network; they resume and load like others, into the module
    as it was built. A ModelCheckpoint that keeps the best weights begins anew. Lightning's averages of the weights
    (``EMAWeightAveraging``, ``WeightAveraging``, ``StochasticWeightAveraging``) are fused at the same time, with
    statistics of their own, and go on as averages of the plain network.

    Args:
        epoch: Before which epoch, counted from 0; a float in [0, 1) is a part of ``trainer.max_epochs``, in whole
            epochs, rounded down, and at least one if it is above 0.
        network: Name of the submodule whose blocks are fused, such as "generator"; others stay. None is the one
            submodule that holds all parameters, or else the LightningModule itself.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it.

    Raises:
        ValueError: Before the first step: the epoch is out of its range, the strategy is neither one device nor DDP, or
            the network cannot be found, called or told what to take of a batch.
        FusionError: Before the first step: a block is not used by the network, cannot be fused, shares what is
            overwritten with something else (tied kernels), or is frozen in part.
    """

    def __init__(self, epoch: int | float = 0.5, network: str | None = None, inputs: Inputs = None) -> None:
        if isinstance(epoch, bool) or not epoch >= 0 or (isinstance(epoch, float) and epoch >= 1):
            raise ValueError(
                f"`epoch` (={epoch!r}) must be a whole number from 0 on, or a part in [0, 1) of all epochs"
            )
        self.epoch = epoch
        self.subject = Subject(network, inputs)
        self._tried = self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move before the other callbacks, which then see the plain network; check that there is one to fuse."""
        if stage == "fit":
            self.subject.check(trainer, pl_module, self)
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.remove(self)
            callbacks.insert(0, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the epoch is part of the training."""
        self._tried = self._done = False
        endless = trainer.max_epochs in (None, -1)
        if endless and isinstance(self.epoch, float):
            raise ValueError(f"`epoch` (={self.epoch}) is a part of trainer.max_epochs, which is not set; set it")
        if not endless and self.first_epoch(trainer.max_epochs) >= (trainer.max_epochs or 0):
            rank_zero_warn(f"LateFuse never comes: epoch {self.epoch} of {trainer.max_epochs}, counted from 0")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Fuse before the first batch of the epoch; before training, check that the network can be fused."""
        due = trainer.current_epoch >= self.first_epoch(trainer.max_epochs)
        network = self.subject.of(pl_module)
        if self._done or (self._tried and not due) or not any(True for _ in blocks_of(network)):
            return
        refuse_unfusable(network, pl_module)
        inputs = self.subject.first_inputs_of(pl_module, batch)
        if not due:
            self._tried = True
            output_moments(network, few(inputs))
            return
        self._done = True
        moments = [(average, _moments_of_average(average, self.subject, batch)) for average in averages(trainer)]
        self._fuse(trainer, pl_module, network, inputs)
        for average, found in moments:  # the same function in eval mode, with statistics of its own
            replace_modules(average, {block: fuse_block(block, values) for block, values in found.items()})
        self._register(trainer, pl_module)

    def first_epoch(self, max_epochs: int | None) -> int:
        """Return the first epoch of the plain network, counted from 0, for a number of epochs."""
        if not isinstance(self.epoch, float):
            return self.epoch
        return max(int(self.epoch > 0), int(self.epoch * (max_epochs or 0) + 1e-9))

    @staticmethod
    def _fuse(trainer: Trainer, pl_module: LightningModule, network: nn.Module, inputs: Any) -> None:
        if trainer.world_size > 1:
            for buffer in network.buffers():  # every process has batch-norm statistics of its own images
                dist.broadcast(buffer, src=0)

        def total(values: Tensor) -> Tensor:
            summed = trainer.strategy.reduce(values, reduce_op="sum")
            assert isinstance(summed, Tensor)
            return summed

        moments = output_moments(network, inputs, total)
        before = set(pl_module.parameters())
        velocity: dict[Tensor, Tensor] = {
            p: v for optimizer in trainer.optimizers for p, v in _momentum(optimizer).items()
        }
        carried: dict[Tensor, Tensor] = {}
        for block in moments:
            carried |= fused_velocity(block, velocity)
        layers: dict[nn.Module, nn.Module] = {block: fuse_block(block, moments[block]) for block in moments}
        replace_modules(pl_module, layers)
        for optimizer in trainer.optimizers:
            _carry_over(optimizer, before - set(pl_module.parameters()), [*layers.values()], carried)
        epoch = epoch_of_all(trainer.current_epoch, trainer.max_epochs)
        rank_zero_info(f"Fused {len(layers)} blocks before epoch {epoch}, counted from 1; going on as a plain network")

    @staticmethod
    def _register(trainer: Trainer, pl_module: LightningModule) -> None:
        """Update everything that refers to the former network."""
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)  # DDP reads the weights on a stream of its own
            strategy.model = pl_module
            gc.collect()  # the old wrapper's hooks on parameters go when it goes
            strategy.configure_ddp()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
                for path in callback.best_k_models:
                    strategy.remove_checkpoint(path)
                callback.best_k_models = {}
                callback.best_model_path = callback.kth_best_model_path = ""
                callback.best_model_score = None


@deprecated("LateFold is now LateFuse; the old name will be removed in the next version")
class LateFold(LateFuse):
    """The former name of `LateFuse`."""


def _moments_of_average(average: LightningModule, subject: Subject, batch: Any) -> dict[FusibleConv, Moments]:
    network = subject.of(average)
    refuse_unfusable(network, average)
    return output_moments(network, subject.inputs_of(average, batch))


def _momentum(optimizer: Optimizer) -> dict[Tensor, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    buffers = {parameter: optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters}
    return {parameter: buffer for parameter, buffer in buffers.items() if buffer is not None}


def _carry_over(
    optimizer: Optimizer,
    gone: set[nn.Parameter],
    layers: Sequence[nn.Module],
    velocity: Mapping[Tensor, Tensor],
) -> None:
    """Remove old parameters from an optimizer; carry momentum over to those of new layers, or start with no state."""
    new = {parameter for layer in layers for parameter in layer.parameters()}
    for group in optimizer.param_groups:
        kept = [parameter for parameter in group["params"] if parameter not in gone]
        group["params"] = _in_order(kept, layers)
    for parameter in gone:
        optimizer.state.pop(parameter, None)
    for parameter in new & optimizer.state.keys():
        if optimizer.state[parameter].keys() == {"momentum_buffer"}:
            optimizer.state[parameter]["momentum_buffer"] = velocity.get(parameter)
        else:
            del optimizer.state[parameter]


def _in_order(parameters: list[nn.Parameter], layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Give each layer's parameters, at their places in a list, the layer's order, which a resumed run's list has."""
    places = {parameter: place for place, parameter in enumerate(parameters)}
    result = list(parameters)
    for layer in layers:
        own = [parameter for parameter in layer.parameters() if parameter in places]
        for place, parameter in zip(sorted(places[parameter] for parameter in own), own, strict=True):
            result[place] = parameter
    return result
