"""``reproduce --engine graphs``: train the runs side by side in this process, without Lightning's loop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from acnet_pl.graphs import StepTimes, time_steps, train_epoch
from acnet_pl.graphs.side_by_side import in_threads
from acnet_pl.reproduce.graph_run import GraphRun, ImageSets
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.settings import SettingsParser, decisive_callbacks

__all__ = ["check_settings", "run_side_by_side"]

_CHECKPOINT_SECONDS = 20.0  # at least between two checkpoints of a run: an epoch may take less than writing one
_PRECISIONS: Mapping[str, torch.dtype | None] = {
    **dict.fromkeys(("None", "32", "32-true")),
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
}
_DEVICES: Mapping[str, str] = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}  # by Lightning's names
# What the engine obeys itself, or is a matter of display.
_OBEYED = {"max_epochs", "precision", "accelerator", "devices", "log_every_n_steps", "check_val_every_n_epoch"}
_OBEYED |= {"logger", "callbacks", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps", "benchmark"}
_OBEYED |= {"enable_autolog_hparams", "enable_checkpointing", "default_root_dir"}


def check_settings(runs: Sequence[PlannedRun], parser: SettingsParser | None = None) -> None:
    """Raise an error if a run's settings need ``fit``.

    Raises:
        ValueError: The settings need ``fit``; the message names the setting.
    """
    default = (parser or SettingsParser())(["fit"])
    for run in runs:
        config = run.config
        wrong = [
            f"--trainer.{name} {value}"
            for name, value in config["trainer"].items()
            if name not in _OBEYED and value != default["trainer"].get(name)
        ]
        wrong += [f"callback {next(iter(part))}" for part in decisive_callbacks(config)]
        if str(config["trainer"]["precision"]) not in _PRECISIONS:
            wrong.append(f"--trainer.precision {config['trainer']['precision']}")
        if str(config["trainer"]["devices"]) not in ("auto", "1"):
            wrong.append(f"--trainer.devices {config['trainer']['devices']}")
        wrong += ["--checkpoint.monitor"] if config["checkpoint"]["monitor"] else []
        wrong += ["--nonfinite.skip"] if config["nonfinite"]["skip"] else []
        wrong += ["--model.compile"] if config["model"]["compile"] else []
        wrong += ["--data.drop_last false"] if config["data"]["init_args"].get("drop_last") is False else []
        if wrong:
            raise ValueError(
                f"--engine graphs cannot train {run.run.name} with {', '.join(wrong)}; leave that out, choose other "
                "--variants, or use --engine fit"
            )


def run_side_by_side(runs: Sequence[PlannedRun], console: Console, at_once: int | None = None) -> dict[str, int]:
    """Train, fuse and test several runs at once; a run with a non-finite loss ends alone.

    A run that was interrupted continues from the last epoch that it kept.

    Args:
        runs: Unfinished runs.
        console: Where the estimate and progress are shown.
        at_once: Networks side by side; None is all of them on a GPU, and one for each core on a CPU.

    Returns:
        1 for each run that failed, by its name.

    Raises:
        ValueError: Settings ask for what only ``fit`` does.
    """
    if not runs:
        return {}
    parser = SettingsParser()
    check_settings(runs, parser)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = bool(runs[0].config["trainer"]["benchmark"])
    device = _device(str(runs[0].config["trainer"]["accelerator"]))
    sets = ImageSets(device)
    count = at_once or (len(runs) if device.type == "cuda" else _cores())
    failed: dict[str, int] = {}
    for start in range(0, len(runs), count):
        members = [_open(run, parser, sets) for run in runs[start : start + count]]
        failed |= _Group(members, console).run()
    return failed


class _Group:
    """Networks trained side by side."""

    def __init__(self, members: Sequence[GraphRun], console: Console) -> None:
        self.members = list(members)
        self.console = console
        self.failed: dict[str, int] = {}

    def run(self) -> dict[str, int]:
        active = [member for member in self.members if not member.training.done]
        self._capture(active)
        engine: dict[int, dict[str, Any]] = {}
        if active:
            times = time_steps([member.training for member in active])
            self.console.print(_estimate(active, times), soft_wrap=True, highlight=False)
            engine = {id(m): _about(active, times, number) for number, m in enumerate(active)}
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=self.console) as progress:
            task = progress.add_task("epochs of all networks", total=sum(m.planned.epochs for m in self.members))
            written = dict.fromkeys(map(id, active), time.monotonic())
            waiting = [member for member in self.members if member.training.done]
            while active or waiting:
                for member in waiting:
                    self._finish(member, engine.get(id(member), {"name": "graphs"}))
                if not active:
                    break
                start = time.perf_counter()
                train_epoch([member.training for member in active])
                seconds = time.perf_counter() - start
                going = self._log(active, seconds)
                active = [member for member in going if not member.training.done]
                waiting = [member for member in going if member.training.done]
                for member in active:
                    if time.monotonic() - written[id(member)] >= _CHECKPOINT_SECONDS:
                        member.checkpoint()
                        written[id(member)] = time.monotonic()
                progress.update(task, completed=sum(m.training.epoch for m in self.members))
        return self.failed

    @staticmethod
    def _capture(active: Sequence[GraphRun]) -> None:
        for number, member in enumerate(active):
            try:
                member.training.capture()
            except RuntimeError as error:
                # Ending a failed capture may raise another error after the first.
                if not isinstance(error, torch.OutOfMemoryError) and not isinstance(
                    error.__context__, torch.OutOfMemoryError
                ):
                    raise
                fewer = f"give --at_once {number} or less" if number else "use --engine fit"
                raise ValueError(f"{len(active)} networks do not fit on the GPU side by side; {fewer}") from error

    def _log(self, active: Sequence[GraphRun], seconds: float) -> list[GraphRun]:
        """Validate and note the epoch; return those that go on."""
        by_training = {id(member.training): member for member in active}
        figures: dict[int, dict[str, float]] = {}

        def validate(training: Any) -> None:
            member = by_training[id(training)]
            every = int(member.planned.config["trainer"]["check_val_every_n_epoch"] or 1)
            if (training.epoch + 1) % every == 0:
                figures[id(training)] = member.validate()

        in_threads(validate, [member.training for member in active])
        going = []
        for member in active:
            try:
                member.log_epoch(seconds, figures.get(id(member.training)))
                going.append(member)
            except FloatingPointError as error:
                self._fail(member, error)
        return going

    def _finish(self, member: GraphRun, engine: Mapping[str, Any]) -> None:
        try:
            summary = member.finish(engine)
        except ValueError as error:
            self._fail(member, error)
            return
        top1 = summary["metrics"]["test/top1"]
        self.console.print(f"{member.planned.run.name}: finished, test top-1 {top1:.2%}", highlight=False)

    def _fail(self, member: GraphRun, error: Exception) -> None:
        self.failed[member.planned.run.name] = 1
        self.console.print(f"{member.planned.run.name}: failed: {error}", markup=False, highlight=False)


def _open(run: PlannedRun, parser: SettingsParser, sets: ImageSets) -> GraphRun:
    objects = parser.objects(run.arguments, run.run.seed)
    return GraphRun(run, objects, sets, _PRECISIONS[str(run.config["trainer"]["precision"])])


def _estimate(active: Sequence[GraphRun], times: StepTimes) -> str:
    """Return how long the group will take."""
    steps = [(m.training.epochs - m.training.epoch) * m.training.steps for m in active]
    # As networks are done, the others go faster: this is the most that it takes.
    seconds = times.together * max(steps)
    mean = 1e3 * sum(times.alone) / len(times.alone)
    device = active[0].training.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU ({torch.get_num_threads()} threads)"
    )
    return (
        f"{len(active)} networks side by side on {name}: {1e3 * times.together:.1f} ms for a step of all "
        f"({mean:.1f} ms for one alone, on average), {max(steps):,} steps to do, about {_duration(seconds)} without "
        "validation"
    )


def _about(active: Sequence[GraphRun], times: StepTimes, number: int) -> dict[str, Any]:
    return {
        "name": "graphs",
        "cuda_graph": active[number].training.stream is not None,
        "networks_side_by_side": len(active),
        "step_seconds_alone": times.alone[number],
        "step_seconds_side_by_side": times.together,
    }


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _device(accelerator: str) -> torch.device:
    there = torch.cuda.is_available()
    kind = {"auto": "cuda" if there else "cpu", **_DEVICES}.get(accelerator)
    if kind is None:
        raise ValueError(f"--engine graphs trains on {', '.join(_DEVICES)}; got --trainer.accelerator {accelerator}")
    if kind == "cuda" and not there:
        raise ValueError(f"--trainer.accelerator {accelerator}: PyTorch sees no CUDA device; leave it out for the CPU")
    return torch.device(kind)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
