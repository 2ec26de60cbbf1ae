"""Everything that one look at a GPU is to show, in one command and a given time, in order of worth.

    make gpu-check BUDGET=480 CHECK='--data.root DIR'           # or, without a virtual environment:
    python benchmarks/gpu_check.py --budget 480 --out DIR --data.root DIR
    make gpu-check DEVICE=cpu BUDGET=300                        # the same on tiny sizes, to see that it works

The stages are the tests that need a GPU, the speed and memory of a training step (CUDA graph and eager; with
--reference the authors' block), evaluation, decoding, pairs of plain networks and ACNets trained side by side, the
share of an epoch that is outside of steps, and compiled steps. Each has a limit of its own, and at most what is
left; one that is stopped or fails leaves what it had, and the next begins. ``DIR/check.json`` has after each stage
what became of it and its record, ``DIR/log.txt`` all that was printed; the record of the stage that runs lies
beside them, and nothing else. Pairs are trained for as many epochs as the measured steps leave time for.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from acnet_pl.provenance import versions

ROOT = Path(__file__).parent.parent
_GRACE = 12.0  # seconds between the request to end and the end


@dataclass(frozen=True)
class Stage:
    """A part of the check.

    Attributes:
        name: Of its record.
        limit: Seconds it may take at most.
        command: Makes its command from the seconds that it has; None leaves it out.
        record: File in the output folder that it writes, if any.
        end: Signal that asks it to end.
    """

    name: str
    limit: float
    command: Callable[[float], Sequence[str] | None]
    record: str | None = None
    end: signal.Signals = signal.SIGTERM


class Log:
    """Prints a line and keeps it."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.file.write(f"{line}\n")
        self.file.flush()


def run_stage(stage: Stage, seconds: float, log: Log) -> dict[str, Any]:
    """Run a stage and say what became of it: its command, seconds, exit code, and whether it was stopped."""
    command = stage.command(seconds)
    if command is None:
        return {"stage": stage.name, "state": "left out"}
    shown = shlex.join(Path(word).name if Path(word).is_absolute() else word for word in command)
    log(f"== {stage.name}, at most {seconds:.0f} s: {shown}")
    start = time.monotonic()
    process = subprocess.Popen(
        list(command), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled", "COLUMNS": "140"},
    )  # fmt: skip
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, log), daemon=True)
    reader.start()
    stopped = False
    try:
        for number, wait in ((stage.end, max(seconds - _GRACE, 1.0)), (signal.SIGKILL, _GRACE)):
            try:
                process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                stopped = True
                # At first the process alone, which is to end its own children in order.
                os.killpg(process.pid, number) if number == signal.SIGKILL else os.kill(process.pid, number)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whoever it left behind, and itself where the user interrupts
        with suppress(subprocess.TimeoutExpired):  # a driver may hold even a killed process
            process.wait(_GRACE)
        reader.join(5)
        if not reader.is_alive():
            process.stdout.close()
    code = process.poll()
    state = "stopped" if stopped else "done" if code == 0 else "failed"
    taken = time.monotonic() - start
    log(f"== {stage.name}: {state}, {taken:.0f} s, exit code {code}")
    return {"stage": stage.name, "state": state, "seconds": round(taken, 1), "exit_code": code, "command": shown}


def _take(path: Path) -> Any:
    """What a stage wrote, if it did; ``check.json`` has it from now on."""
    if not path.is_file():
        return None
    with suppress(ValueError):  # stopped while it wrote
        content = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return content
    return None


def _pass_on(lines: IO[str], log: Log) -> None:
    for line in lines:
        log(line.rstrip())


def run_check(stages: Sequence[Stage], budget: float, out: Path) -> list[dict[str, Any]]:
    """Run stages one after another within a budget; ``check.json`` is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget
    outcomes: list[dict[str, Any]] = []
    with (out / "log.txt").open("w", encoding="utf-8") as file:
        log = Log(file)
        for stage in stages:
            left = end - time.monotonic()
            outcome: dict[str, Any] = {"stage": stage.name, "state": "no time left"}
            if left > 2 * _GRACE:
                outcome = run_stage(stage, min(stage.limit, left), log)
            outcome["record"] = _take(out / stage.record) if stage.record else None
            outcomes.append(outcome)
            check = {"budget": budget, "versions": versions(), "stages": outcomes}
            (out / "check.json").write_text(json.dumps(check, indent=2) + "\n", encoding="utf-8")
        for outcome in outcomes:
            log(f"{outcome['stage']}: {outcome['state']}" + ("" if outcome["record"] is None else ", with figures"))
    return outcomes


def make_stages(options: argparse.Namespace, out: Path, runs: Path) -> list[Stage]:
    """The stages for a device; on a CPU of tiny sizes."""
    cuda = options.device == "cuda"
    python = sys.executable
    reference = ["--reference", str(options.reference.absolute())] if options.reference else []
    threads = ["--threads", str(options.threads)]

    def speed(name: str, limit: float, models: str, modes: str, *contenders: str) -> Stage:
        sizes = ["--steps", "15"] if cuda else ["--steps", "3", "--batch-size", "4", "--image-size", "32"]

        def command(seconds: float) -> list[str]:
            words = [python, "benchmarks/training_speed.py", "--device", options.device, "--models", *models.split()]
            words += ["--modes", *modes.split(), "--contenders", *contenders, *sizes, *threads, *reference]
            return [
                *words,
                "--budget",
                f"{seconds - 2 * _GRACE - (0 if cuda else 20):.0f}",
                "--out",
                str(out / f"{name}.json"),
            ]

        return Stage(name, limit, command, f"{name}.json")

    def tests(seconds: float) -> list[str]:
        files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8")]
        words = [python, "-m", "pytest", "-v", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]
        return [*words, *(["-n", "8"] if cuda else []), *sorted(str(path.relative_to(ROOT)) for path in files)]

    def small(script: str, name: str, *more: str) -> Callable[[float], list[str]]:
        words = [
            python,
            f"benchmarks/{script}",
            "--device",
            options.device,
            *threads,
            "--out",
            str(out / f"{name}.json"),
            *more,
        ]
        return lambda seconds: words

    def pipeline(seconds: float) -> list[str] | None:
        if options.root is None:
            return None
        words = [python, "benchmarks/pipeline.py", "--data.root", str(options.root), "--no-verify", *threads]
        words += ["--model", "resnet20", "--contenders", "plain", "acnet", "--no-compile", "--device", options.device]
        words += ["--epochs", "2", "--limit", "1.0" if cuda else "2", "--steps", "15" if cuda else "3"]
        words += [] if cuda else ["--batch-size", "4", "--precision", "32-true"]  # not every CPU has bfloat16
        return [*words, "--out", str(out / "pipeline.json")]

    contenders = ("plain", "acnet", "share 1/8", "scaled")
    if cuda:
        short = ("--models", "resnet18", "resnet56", "--batch-sizes", "1", "64", "--rounds", "7", "--gradients", "none")
        stages = [
            Stage("tests", 110, tests, end=signal.SIGINT),
            speed("speed", 100, "cifar_quick resnet20 resnet56 resnet18 resnet50", "graph-bf16", *contenders),
            speed("speed_eager", 60, "resnet18 resnet56", "eager-bf16", "plain", "acnet"),
            Stage(
                "evaluation",
                30,
                small("evaluation_speed.py", "evaluation", *short),
                "evaluation.json",
            ),
            Stage("decoding", 45, small("decode_speed.py", "decoding"), "decoding.json"),
        ]
    else:
        tiny = ("--models", "cifar_quick", "--batch-sizes", "2", "--rounds", "3")
        stages = [
            Stage("tests", 90, tests, end=signal.SIGINT),
            speed("speed", 90, "cifar_quick", "eager-fp32", "plain", "acnet"),
            Stage("evaluation", 60, small("evaluation_speed.py", "evaluation", *tiny), "evaluation.json"),
            Stage(
                "decoding", 75, small("decode_speed.py", "decoding", "--images", "4", "--rounds", "3"), "decoding.json"
            ),
        ]
    stages += [
        Stage("pairs", float("inf") if not cuda else 0.5 * options.budget, pairs(options, out, runs), "pairs.json"),
        Stage("pipeline", 75, pipeline, "pipeline.json"),
    ]
    if cuda:
        stages.append(speed("speed_compiled", 200, "resnet18 resnet56", "compiled-bf16", *contenders))
    return stages


def pairs(options: argparse.Namespace, out: Path, runs: Path) -> Callable[[float], list[str] | None]:
    """Pairs of plain networks and ACNets, for as many epochs as there is time for."""

    def command(seconds: float) -> list[str] | None:
        words = [sys.executable, "benchmarks/gpu_pairs.py", "--seconds", f"{seconds - 2 * _GRACE:.0f}"]
        words += ["--out", str(out / "pairs.json"), "--runs_dir", str(runs), "--device", options.device]
        if options.device == "cuda":
            if options.root is None:
                return None
            words += ["--data.root", str(options.root), "--check", str(out / "check.json")]
        return words

    return command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument(
        "--data.root", dest="root", type=Path, help="of CIFAR-10; without it no epochs and pairs on a GPU"
    )
    parser.add_argument("--reference", type=Path, help="the authors' acb.py")
    parser.add_argument("--stages", nargs="+", help="only these; default all")
    parser.add_argument("--threads", type=int, default=4 if torch.cuda.is_available() else 1)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device; --device cpu shows that the check itself works")
    options.root = options.root and options.root.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stage that runs ends with this process
    # Where a shell started this in the background, stages would ignore SIGINT, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = options.out.absolute()
    with tempfile.TemporaryDirectory() as runs:
        stages = make_stages(options, out, Path(runs))
        if unknown := set(options.stages or ()) - {stage.name for stage in stages}:
            parser.error(f"--stages {', '.join(sorted(unknown))}: there are {', '.join(s.name for s in stages)}")
        outcomes = run_check([s for s in stages if not options.stages or s.name in options.stages], options.budget, out)
    raise SystemExit(any(outcome["state"] == "failed" for outcome in outcomes))


if __name__ == "__main__":
    main()
