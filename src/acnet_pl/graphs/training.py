"""NetworkTraining: train one network step by step; on a GPU a step is one launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.data.augment import augment_by
from acnet_pl.data.random_words import random_words
from acnet_pl.graphs.images import DeviceImages
from acnet_pl.graphs.sgd import Momentum

__all__ = ["Batching", "NetworkTraining"]

_WARM_UP_STEPS = 3  # before a capture, so that libraries have chosen their kernels and made their handles


@dataclass(frozen=True)
class Batching:
    """Choice and augmentation of the images of a batch.

    Attributes:
        order: Returns the order of an epoch, int64 ``(N,)``, on the CPU. A last, smaller batch is left out.
        seed: Seed of the augmentation.
        batch_size: Images in a batch.
        pad: Black pixels on each side before the random crop.
        flip: Flip half of the images left-right.
    """

    order: Callable[[int], Tensor]
    seed: int
    batch_size: int
    pad: int
    flip: bool


class NetworkTraining:
    """Cross-entropy training of one network whose steps read and write device memory alone.

    A step takes the batch's number from a counter on the device, gathers and augments the images, does the forward and
    the backward pass and the update at the scheduled learning rate, notes the loss and advances the counter. Nothing of
    it needs the host, so `capture` can record it as one CUDA graph on a stream of its own. The images of a step depend
    on the seed, the epoch and the counter alone, as under Lightning, and so does everything else.

    Args:
        network: Is moved to the images' device.
        optimizer: Optimizer of the network's parameters; its velocities are moved to the images' device.
        factor: Function from the number of finished steps to the schedule's factor on the learning rates.
        images: Training images.
        batching: Order and augmentation.
        epochs: In the whole training.
        label_smoothing: In [0, 1).
        autocast: Type of autocast; None is none.

    Attributes:
        steps: In an epoch.
        epoch: Epochs that are done.

    Raises:
        ValueError: The network draws random numbers in training (dropout), which a step has no seed for, or there are
            fewer images than in a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Momentum,
        factor: Callable[[int], float],
        images: DeviceImages,
        batching: Batching,
        *,
        epochs: int,
        label_smoothing: float = 0.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
                raise ValueError(
                    f"layer {name} ({type(module).__name__}) draws random numbers, which `--engine graphs` has no seed "
                    "for; use `--engine fit`"
                )
        self.steps = len(images) // batching.batch_size
        if not self.steps:
            raise ValueError(f"`batch_size` (={batching.batch_size}) must be at most the {len(images)} training images")
        self.device = images.labels.device
        self.network = network.to(self.device).train()
        self.optimizer = optimizer
        self.optimizer.to(self.device)
        self.images = images
        self.batching = batching
        self.epochs = epochs
        self.label_smoothing = label_smoothing
        self.autocast = autocast
        self.epoch = 0
        self.stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._factor = factor
        self._graph: torch.cuda.CUDAGraph | None = None
        shape = self.steps, batching.batch_size
        self._order, self._words = (torch.zeros(shape, dtype=torch.int64, device=self.device) for _ in range(2))
        self._factors = torch.zeros(
            self.steps, device=self.device, dtype=torch.float32 if self.stream else torch.float64
        )
        self._losses = torch.zeros(self.steps, device=self.device)
        self._hits = torch.zeros(self.steps, dtype=torch.int64, device=self.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=self.device)

    @property
    def done(self) -> bool:
        """Return True after the last epoch."""
        return self.epoch >= self.epochs

    def begin_epoch(self) -> None:
        """Copy the order, the augmentation's draws and the learning rates of the next epoch to the device."""
        order = self.batching.order(self.epoch)[: self._order.numel()].view_as(self._order)
        first = self.epoch * self.steps
        factors = torch.tensor([self._factor(step) for step in range(first, first + self.steps)], dtype=torch.float64)
        with self._on_stream():
            self._order.copy_(order)
            self._words.copy_(random_words(self.batching.seed, self.epoch, order))
            self._factors.copy_(factors)
            self._position.zero_()

    def advance(self) -> None:
        """Run the next step of the epoch; on a GPU return without waiting for it."""
        if self._graph is not None:
            with self._on_stream():
                self._graph.replay()
        else:
            self._step()

    def end_epoch(self) -> tuple[list[float], float]:
        """Close an epoch whose steps are done, and return its figures.

        Returns:
            The loss of each step, and the training accuracy, 0 to 1.

        Raises:
            FloatingPointError: A loss is NaN or infinite; the message names the step.
        """
        with self._on_stream():
            losses: list[float] = self._losses.tolist()
            hits = int(self._hits.sum())
        for number, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {self.epoch * self.steps + number} (counted from 0: epoch "
                    f"{self.epoch}, batch {number}); lower model.optimizer.init_args.lr or add warm-up epochs"
                )
        self.epoch += 1
        return losses, hits / self._order.numel()

    def capture(self) -> None:
        """Record a step as a CUDA graph; on a CPU do nothing. Weights and statistics are restored."""
        if self.stream is None or self._graph is not None:
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        before = self.snapshot()
        with self._on_stream():
            for _ in range(_WARM_UP_STEPS):
                self._step()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        self._graph = graph
        self.restore(before)

    def snapshot(self) -> list[Tensor]:
        """Copy everything that a step changes."""
        with self._on_stream():
            return [tensor.detach().clone() for tensor in self._state()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Undo all steps since `snapshot`, in place."""
        with self._on_stream():
            for tensor, before in zip(self._state(), snapshot, strict=True):
                tensor.copy_(before)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for this network's steps."""
        if self.stream is not None:
            self.stream.synchronize()

    def learning_rates(self, step: int) -> list[float]:
        """Return the learning rate of each group at a step, counted from the beginning of the training."""
        return [group.lr * self._factor(step) for group in self.optimizer.groups]

    def state_dict(self) -> dict[str, Any]:
        """Return copies on the CPU: ``network``, ``velocities``, ``epoch``."""
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        velocities = [[v.cpu().clone() for v in group] for group in self.optimizer.velocities]
        return {"network": state, "velocities": velocities, "epoch": self.epoch}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict` in place, at the addresses that a graph uses."""
        self.network.load_state_dict(state["network"])
        for mine, saved in zip(self.optimizer.velocities, state["velocities"], strict=True):
            for tensor, value in zip(mine, saved, strict=True):
                tensor.copy_(value)
        self.epoch = state["epoch"]

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _step(self) -> None:
        """Run one training step with operations on the device alone."""
        indices, words = (source.index_select(0, self._position)[0] for source in (self._order, self._words))
        stored, labels = (source.index_select(0, indices) for source in (self.images.images, self.images.labels))
        batch = self.images.normalize(augment_by(stored, words, pad=self.batching.pad, flip=self.batching.flip))
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.network(batch)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        factor = self._factors.index_select(0, self._position)[0]
        self.optimizer.step(float(factor) if self.stream is None else factor)
        self._losses.index_copy_(0, self._position, loss.detach().float()[None])
        self._hits.index_copy_(0, self._position, (logits.detach().argmax(1) == labels).sum()[None])
        self._position.add_(1).remainder_(self.steps)

    def _state(self) -> list[Tensor]:
        velocities = [v for group in self.optimizer.velocities for v in group]
        return [*self.network.parameters(), *self.network.buffers(), *velocities, self._position]
