"""Train several networks at once: in turn on a GPU, one thread each on a CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from acnet_pl.graphs.training import NetworkTraining

__all__ = ["StepTimes", "time_steps", "train_epoch"]


@dataclass(frozen=True)
class StepTimes:
    """Seconds that training steps take.

    Attributes:
        alone: A step of each network, with nothing beside it.
        together: A step of all networks, side by side.
    """

    alone: tuple[float, ...]
    together: float


def train_epoch(trainings: Sequence[NetworkTraining]) -> None:
    """Train each network for its next epoch; `NetworkTraining.end_epoch` then returns the figures.

    Args:
        trainings: Networks on one device, none of them done; on a GPU captured.
    """
    for training in trainings:
        training.begin_epoch()
    _steps(trainings, [training.steps for training in trainings])


def time_steps(trainings: Sequence[NetworkTraining]) -> StepTimes:
    """Time some steps of each network alone and of all together, and restore the networks.

    Args:
        trainings: Networks on one device; on a GPU captured.
    """
    warm, timed = (5, 20) if trainings[0].stream is not None else (1, 2)
    before = [training.snapshot() for training in trainings]
    for training in trainings:
        training.begin_epoch()

    def seconds(chosen: Sequence[NetworkTraining]) -> float:
        _steps(chosen, [warm] * len(chosen))
        start = time.perf_counter()
        _steps(chosen, [timed] * len(chosen))
        return (time.perf_counter() - start) / timed

    alone = tuple(seconds([training]) for training in trainings)
    together = seconds(trainings) if len(trainings) > 1 else alone[0]
    for training, snapshot in zip(trainings, before, strict=True):
        training.restore(snapshot)
    return StepTimes(alone, together)


def in_threads(
    action: Callable[[NetworkTraining], None],
    trainings: Sequence[NetworkTraining],
    stopped: threading.Event | None = None,
) -> None:
    """Call a function for each network; on a CPU in parallel threads that share the cores.

    Args:
        action: Function to call.
        trainings: Networks on one device.
        stopped: Is set when one of the calls fails or the user interrupts, so that the others can end early.
    """
    if trainings[0].stream is not None or len(trainings) == 1:
        for training in trainings:
            action(training)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // len(trainings)))
    try:
        with ThreadPoolExecutor(len(trainings)) as pool:
            try:
                list(pool.map(action, trainings))
            except BaseException:
                if stopped is not None:
                    stopped.set()
                raise
    finally:
        torch.set_num_threads(threads)


def _steps(trainings: Sequence[NetworkTraining], counts: Sequence[int]) -> None:
    """Run a number of steps of each network and wait for them."""
    if trainings[0].stream is None:
        _steps_in_threads(trainings, counts)
    else:
        for number in range(max(counts)):
            for training, count in zip(trainings, counts, strict=True):
                if number < count:
                    training.advance()
    for training in trainings:
        training.synchronize()


def _steps_in_threads(trainings: Sequence[NetworkTraining], counts: Sequence[int]) -> None:
    number_of = {id(training): count for training, count in zip(trainings, counts, strict=True)}
    stopped = threading.Event()

    def go(training: NetworkTraining) -> None:
        for _ in range(number_of[id(training)]):
            if stopped.is_set():
                return
            training.advance()

    in_threads(go, trainings, stopped)
