"""Plain networks and ACNets trained side by side, for as many epochs as there is time for: part of gpu_check.py.

    python benchmarks/gpu_pairs.py --seconds 200 --data.root DIR --check check.json --out pairs.json

ResNet-20, Cifar-quick and ResNet-56, in that order, each by ``reproduce --engine graphs``. How many epochs there
is time for is computed before a network's training begins, from the steps measured in `--check`, or else from
those of an H200. ``--out`` has the results of what is finished after each network, also where the time runs out.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acnet_pl.reproduce.grid import load_grid
from record import write_record

START, START_EACH = 15.0, 1.5  # seconds beside training: imports and loading; of each network capture, fusing, testing
SIDE_BY_SIDE = 1.5  # throughput of networks side by side over one after the other, cautiously
STEPS = 390  # of an epoch of CIFAR-10 in batches of 128
LEAST_EPOCHS, MOST_EPOCHS = 2, 30
# Variants by their names in experiments/conv, as training_speed.py calls them.
VARIANTS = {"plain": "plain", "acb": "acnet", "acb_share_eighth": "share 1/8"}
H200_MS = {"cifar_quick": 0.64, "resnet20": 2.3, "resnet56": 6.5}  # a step of the plain network
ACNET_RATIO = 2.6


@dataclass(frozen=True)
class Pairs:
    """Networks of one architecture.

    Attributes:
        grid: Of ``reproduce``.
        model: Its key.
        seeds: How many of each variant.
        share: Of the time that is left.
    """

    grid: str
    model: str
    seeds: int
    share: float


PLAN = (
    Pairs("cheaper", "resnet20", 4, 0.6),
    Pairs("cheaper", "cifar_quick", 4, 0.6),
    Pairs("table1", "resnet56", 3, 1.0),
)


def measured_steps(check: Path) -> list[dict[str, Any]]:
    """The rows of training_speed.py in a check; none where it has none."""
    if not check.is_file():
        return []
    stages = json.loads(check.read_text(encoding="utf-8"))["stages"]
    records = [stage["record"] for stage in stages if stage["stage"] == "speed" and stage["record"]]
    return [row for record in records for row in record["rows"]]


def variants(pairs: Pairs) -> list[str]:
    """Those variants of the grid that are compared here."""
    return [variant.key for variant in load_grid(pairs.grid).variants if variant.key in VARIANTS]


def epoch_seconds(pairs: Pairs, speed: list[dict[str, Any]]) -> float:
    """How long an epoch of all networks takes, estimated."""
    measured = {row["contender"]: row["ms"] for row in speed if row["model"] == pairs.model and "ms" in row}
    plain = float(measured.get("plain", H200_MS[pairs.model]))
    steps: list[float] = [
        measured.get(VARIANTS[key], plain * (1 if key == "plain" else ACNET_RATIO)) for key in variants(pairs)
    ]
    return pairs.seeds * sum(steps) * 1e-3 * STEPS / SIDE_BY_SIDE


def epochs_in(seconds: float, epoch: float, networks: int) -> int:
    """How many epochs there is time for; 0 where it is not worth beginning."""
    epochs = int((seconds - START - START_EACH * networks) / epoch)
    return 0 if epochs < LEAST_EPOCHS else min(epochs, MOST_EPOCHS)


def reached(runs_dir: Path) -> dict[str, dict[str, float]]:
    """Last validated epoch of every run below a folder, its accuracy, and the test accuracy of a finished run."""
    found = {}
    for path in sorted(runs_dir.glob("*/*/metrics.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/top1")]
        if rows:
            figures = {"epoch": float(rows[-1]["epoch"]), "val/top1": float(rows[-1]["val/top1"])}
            if (summary := path.with_name("summary.json")).is_file():
                figures["test/top1"] = json.loads(summary.read_text(encoding="utf-8"))["metrics"]["test/top1"]
            found[path.parent.parent.name] = figures
    return found


def reproduce(arguments: list[str], seconds: float) -> str:
    """Run ``reproduce``; where the time runs out have it end in order. Returns what became of it."""
    process = subprocess.Popen([sys.executable, "-m", "acnet_pl", "reproduce", *arguments])
    try:
        code = process.wait(seconds)
        return "done" if code == 0 else f"failed ({code})"
    except subprocess.TimeoutExpired:
        return "stopped"
    except KeyboardInterrupt:  # so is SIGTERM understood here
        return "interrupted"
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data.root", dest="root", type=Path, help="of CIFAR-10; needed on a GPU")
    parser.add_argument("--check", type=Path, help="what gpu_check.py wrote, with the time of a step of each network")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.device == "cuda" and options.root is None:
        parser.error("--device cuda trains on CIFAR-10; give its folder with --data.root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = time.monotonic() + options.seconds
    found: list[dict[str, Any]] = []

    def keep(name: str, state: str, epochs: int, folder: Path) -> None:
        results = folder / "results.json"
        found.append({"name": name, "state": state, "epochs": epochs})
        if results.is_file():
            found[-1]["results"] = json.loads(results.read_text(encoding="utf-8"))
        if state not in ("done", "no time"):
            found[-1]["reached"] = reached(options.runs_dir)
        write_record(options.out, {"pairs": found})
        if state == "interrupted":
            raise SystemExit(1)

    common = ["--engine", "graphs", "--runs_dir", str(options.runs_dir)]
    if options.device == "cpu":
        folder = options.runs_dir / "report-digits"
        digits = ["--models", "resnet8", "--variants", "plain", "acb", "--seeds", "0", "--epochs", "1"]
        digits += ["--pruning_seeds", "1", "--data.image_size", "8", "--trainer.accelerator", "cpu"]
        state = reproduce(["digits", *digits, *common, "--output", str(folder)], options.seconds)
        keep("digits", state, 1, folder)
        return
    speed = measured_steps(options.check) if options.check else []
    common += ["--recipe", "cosine", "--trainer.accelerator", "gpu", "--trainer.precision", "bf16-mixed"]
    common += ["--model.channels_last", "true", "--data.root", str(options.root), "--data.verify", "false"]
    for pairs in PLAN:
        seconds = pairs.share * (end - time.monotonic())
        epoch = epoch_seconds(pairs, speed)
        epochs, folder = (
            epochs_in(seconds, epoch, pairs.seeds * len(variants(pairs))),
            options.runs_dir / f"report-{pairs.model}",
        )
        print(f"{pairs.model}: {epochs} epochs of about {epoch:.1f} s in {seconds:.0f} s", flush=True)
        if not epochs:
            keep(pairs.model, "no time", 0, folder)
            continue
        arguments = [pairs.grid, "--models", pairs.model, "--variants", *variants(pairs), "--epochs", str(epochs)]
        arguments += ["--seeds", *map(str, range(pairs.seeds)), "--output", str(folder), *common]
        keep(pairs.model, reproduce(arguments, end - time.monotonic()), epochs, folder)


if __name__ == "__main__":
    main()
