"""Run unfinished runs one after another in processes, with progress on the terminal."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from acnet_pl.reproduce.plan import PlannedRun

__all__ = ["command_line", "log_file", "run_all"]

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 120
_LINE_SECONDS = 60


def command_line(run: PlannedRun, python: str = "python") -> list[str]:
    """Return the shell command of a run.

    Args:
        run: The run.
        python: The interpreter.
    """
    return [python, "-m", "acnet_pl", *run.arguments]


def log_file(run: PlannedRun) -> Path:
    """Return the file that `run_all` writes a run's output to."""
    return run.runs_dir / run.run.name / "log.txt"


def run_all(runs: Sequence[PlannedRun], console: Console) -> dict[str, int]:
    """Run each run in a process of its own; a failed run does not stop the others.

    A run that was interrupted continues from its newest checkpoint, as ``fit --resume auto`` does.

    Args:
        runs: Unfinished runs.
        console: Where progress is shown.

    Returns:
        Exit codes that are not 0, by the run's name.

    Raises:
        KeyboardInterrupt: Once the run in progress has ended, too.
    """
    failed: dict[str, int] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    spoken = time.monotonic()
    with Progress(*columns, console=console) as progress:
        # Time goes by epochs, weighted by what an epoch of each network costs.
        weights = [_cost(run) for run in runs]
        total = progress.add_task("all runs", total=len(runs))
        scale = len(runs) / max(sum(weights), 1e-9)
        done = 0.0
        for number, (run, weight) in enumerate(zip(runs, weights, strict=True), 1):
            task = progress.add_task(f"{number}/{len(runs)} {run.run.name} (epochs)", total=run.epochs)

            def advance(
                epochs: int,
                number: int = number,
                task: TaskID = task,
                run: PlannedRun = run,
                weight: float = weight,
                done: float = done,
            ) -> None:
                nonlocal spoken
                progress.update(task, completed=epochs)
                progress.update(total, completed=scale * (done + weight * epochs / max(run.epochs, 1)))
                if not console.is_terminal and time.monotonic() - spoken >= _LINE_SECONDS:  # no bar is drawn there
                    spoken = time.monotonic()
                    said = f"{number}/{len(runs)} {run.run.name}: {epochs} of {run.epochs} epochs"
                    console.print(said, highlight=False)

            code = _run(run, advance)
            done += weight
            progress.update(total, completed=round(scale * done, 6))  # shown as a whole number, rounded down
            progress.remove_task(task)
            if code == 0 and run.state() == "finished":
                console.print(f"{number}/{len(runs)} {run.run.name}: finished", highlight=False)
            else:
                failed[run.run.name] = code
                said = f"{number}/{len(runs)} {run.run.name}: failed ({code}), see {log_file(run)}\n{_end(run)}"
                console.print(said, markup=False, highlight=False)
    return failed


def _run(run: PlannedRun, advance: Callable[[int], None]) -> int:
    log = log_file(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # of a link the link alone
    started = time.time()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command_line(run, sys.executable), stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    advance(min(_epochs_done(log.parent, started), run.epochs))
        except BaseException:
            # Ctrl-C reaches the run as well, which saves and ends; what stops this process alone has to stop it too.
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(_GRACE_SECONDS)
            raise


def _epochs_done(parent: Path, since: float) -> int:
    """Return the epochs that the run that writes below a folder has logged; its test counts as one more."""
    files = [path for path in parent.glob("*/metrics.csv") if path.is_file() and path.stat().st_mtime >= since]
    if not files:
        return 0
    try:
        with max(files, key=lambda path: path.stat().st_mtime).open(newline="", encoding="utf-8") as file:
            epochs = [row["epoch"] for row in csv.DictReader(file) if row.get("epoch")]
        return 1 + max((int(float(epoch)) for epoch in epochs), default=-1)
    except (OSError, ValueError, OverflowError, csv.Error):  # half written, or not by the run
        return 0


def _cost(run: PlannedRun) -> float:
    return float(run.training_macs or run.epochs)


def _end(run: PlannedRun, lines: int = 5) -> str:
    text = log_file(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])
