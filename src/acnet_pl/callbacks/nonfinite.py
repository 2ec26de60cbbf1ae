"""NonFiniteCheck: stop at a NaN or infinite loss and name its source, or skip a few such batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from acnet_pl.analysis.inputs import Inputs, network_inputs, tensors_of
from acnet_pl.callbacks.subject import Subject
from acnet_pl.loggers import log_scalars
from acnet_pl.nn.surgery.running import call

__all__ = ["NonFiniteCheck", "NonFiniteLossError", "first_nonfinite"]


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite; the message names the step, the batch and the layer."""


class NonFiniteCheck(Callback):
    """Stop before a NaN or infinite loss reaches the weights, or skip up to ``skip`` such batches.

    The loss is looked at just before the optimizer's step, when the backward pass is under way: the host waits for the
    forward pass alone, so the device always has work. A batch that is left out changes neither the weights, the
    optimizer's state nor the statistics of the batch norms; the learning rate goes on. They are counted in ``skipped``
    and logged as ``train/skipped_batches``. Gradients that overflow under ``16-mixed`` while the loss is finite are the
    gradient scaler's business and are not counted.

    Args:
        skip: Batches that may be left out in a run, for training in half precision.
        enabled: False switches the check off.
        network: Name of the submodule in which to look for the layer. None is the one submodule that holds all
            parameters, or else the LightningModule itself.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it.

    Raises:
        NonFiniteLossError: At the batch after the last that may be left out, with the weights as they were before it.
        ValueError: Batches may be left out, and there are several optimizers.
    """

    def __init__(self, skip: int = 0, enabled: bool = True, network: str | None = None, inputs: Inputs = None) -> None:
        if skip < 0:
            raise ValueError(f"`skip` (={skip}) must be at least 0")
        self.skip = skip
        self.enabled = enabled
        self.subject = Subject(network, inputs)
        self.skipped = 0
        self._batch: Any = None
        self._finite: list[Tensor] = []  # in all processes, of each batch since the last step
        self._held: list[tuple[int, Tensor | None]] = []  # the batches' numbers and images' indices
        self._own: list[Tensor] = []  # in this one of several
        self._event: torch.cuda.Event | None = None
        self._buffers: list[Tensor] = []
        self._saved: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the LightningModule has a submodule named `network`."""
        if self.enabled and stage == "fit":
            self.subject.check_name(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to skip batches where several optimizers share one: one may have made its step before the bad loss."""
        if self.enabled and self.skip and len(trainer.optimizers) > 1:
            raise ValueError(
                f"NonFiniteCheck(skip={self.skip}) with {len(trainer.optimizers)} optimizers: a batch can be left out "
                "whole only where there is one; use skip=0, which stops at the first loss that is not finite"
            )

    def state_dict(self) -> dict[str, int]:
        """Return the number of skipped batches."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of skipped batches."""
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batch, and the statistics that it may change."""
        self._batch = batch
        if self.enabled and self.skip and not self._finite:
            if not self._buffers:
                self._buffers = list(pl_module.buffers())
                self._saved = [buffer.clone() for buffer in self._buffers]
            _copy(self._saved, self._buffers)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Start asking the device whether the loss is finite, without waiting."""
        if not self.enabled:
            return
        indices = getattr(getattr(trainer, "datamodule", None), "batch_indices", None)
        self._held.append((trainer.fit_loop.batch_idx, indices if isinstance(indices, Tensor) else None))
        finite = loss.detach().isfinite().all()
        if trainer.world_size > 1:
            self._own.append(finite)
            finite = finite.to(torch.int32)
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if finite.is_cuda:
            answer = torch.empty((), dtype=finite.dtype, pin_memory=True)
            finite = answer.copy_(finite, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        self._finite.append(finite)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Read the answer; stop, or remove the gradients of a skipped batch."""
        if not self._finite:
            return
        if self._event is not None:
            self._event.synchronize()
        bad, own, held = [not bool(answer) for answer in self._finite], self._own, self._held
        self._finite, self._own, self._held = [], [], []
        if not any(bad):
            return
        # The same batch in all processes: its forward pass may be one that they do together.
        first = bad.index(True)
        where = self._describe(trainer, pl_module, *held[first], at_hand=first == len(bad) - 1)
        if trainer.world_size > 1:  # all are here; what counts is what those have seen whose loss it is
            told: list[str | None] = [None] * trainer.world_size
            dist.all_gather_object(told, None if bool(own[first]) else where)
            where = next(f"in process {rank} {text}" for rank, text in enumerate(told) if text is not None)
        if self.skipped >= self.skip:
            raise NonFiniteLossError(
                f"the loss is not finite at step {trainer.global_step} {where}. The weights are those of the step "
                f"before. Lower the learning rate, add warm-up epochs, or pass over such batches with "
                f"NonFiniteCheck(skip=N), --nonfinite.skip N (={self.skip}; passed over so far: {self.skipped})"
            )
        self.skipped += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        with torch.no_grad():
            _copy(self._buffers, self._saved)
        rank_zero_warn(
            f"Passing over batch {self.skipped} of {self.skip}: loss not finite at step {trainer.global_step} {where}"
        )
        log_scalars(trainer, {"train/skipped_batches": float(self.skipped)})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batch and the buffers."""
        self._batch, self._buffers, self._saved, self._held = None, [], [], []

    def _describe(
        self, trainer: Trainer, pl_module: LightningModule, batch_idx: int, indices: Tensor | None, at_hand: bool
    ) -> str:
        """Return epoch, batch, indices of images if known, and the first non-finite layer.

        The layer only where the batch is still at hand: not of an earlier one whose gradients were accumulated.
        """
        text = f"(counted from 0: epoch {trainer.current_epoch}, batch {batch_idx}"
        if indices is not None:
            text += f", images {indices.tolist()}"
        if not at_hand:
            return f"{text}; set trainer.accumulate_grad_batches=1 to be told the layer)"
        try:
            network = self.subject.of(pl_module)
            inputs = network_inputs(network, self._batch, self.subject.inputs)
            with trainer.precision_plugin.forward_context():
                return f"{text}): {first_nonfinite(network, inputs)}"
        except Exception as error:  # whatever a network may raise; the loss is what there is to be told of
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return f"{text}; which layer it is cannot be told: {reason})"


def first_nonfinite(network: nn.Module, inputs: Any) -> str:
    """Return the first layer, in the order of the forward pass, that has non-finite values.

    Args:
        network: Left as it is, running statistics included.
        inputs: A batch that it takes: a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> _ = nn.init.constant_(net[1].weight, float("inf"))
        >>> first_nonfinite(net, torch.ones(1, 2))
        'layer 1 (Linear) has non-finite weights'
    """
    found: list[str] = []

    def look(name: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if found or all(tensor.isfinite().all() for tensor in tensors_of(output)):
                return
            spoilt = any(not parameter.isfinite().all() for parameter in layer.parameters())
            found.append(
                f"layer {name or 'net'} ({type(layer).__name__}) "
                + ("has non-finite weights" if spoilt else "is the first whose output is not finite")
            )

        return layer.register_forward_hook(hook)

    leaves = [(name, layer) for name, layer in network.named_modules() if not any(True for _ in layer.children())]
    hooks = [look(name, layer) for name, layer in leaves]
    try:
        with torch.no_grad(), _buffers_kept(network), torch.compiler.set_stance("force_eager"):
            call(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(
        tensor.isfinite().all() for tensor in tensors_of(inputs)
    ):  # asked last: of several processes each has to do the forward pass
        return "the images themselves are not finite"
    return found[0] if found else "the output of every layer is finite, so the loss itself is out of range"


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    buffers = list(network.buffers())
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        _copy(buffers, saved)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
