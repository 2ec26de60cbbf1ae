"""Seconds until the command line answers, as ratios to importing torch.

    python benchmarks/startup.py [--rounds 9] [--out benchmarks/results/startup.json]

Each round starts every command once, one after the other, in an order that rotates. Medians over rounds of the time and
of its ratio to `import torch` within the round: by the clock, and by the processor time that the process itself took,
which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from record import write_record

BASE = "import torch"
COMMANDS = {
    BASE: ["-c", "import torch"],
    "import pytorch_lightning": ["-c", "import pytorch_lightning"],
    "import acnet_pl": ["-c", "import acnet_pl"],
    "acnet_pl --help": ["-m", "acnet_pl", "--help"],
    "acnet_pl fit --help": ["-m", "acnet_pl", "fit", "--help"],
}


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    for command in COMMANDS.values():  # reads the files once
        measure(command)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    names = list(COMMANDS)
    for round_ in range(options.rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append(measure(COMMANDS[name]))

    rows = {}
    table = Table("", "seconds", "to import torch", "of the processor", "to import torch")
    for name in names:
        row = {}
        for index, clock in enumerate(("wall", "cpu")):
            ratios = [own[index] / base[index] for own, base in zip(taken[name], taken[BASE], strict=True)]
            row[f"{clock}_seconds"] = round(statistics.median(own[index] for own in taken[name]), 3)
            row[f"{clock}_to_torch"] = round(statistics.median(ratios), 3)
        rows[name] = row
        table.add_row(name, *(f"{row[key]:.2f}" for key in row))
    Console().print(table)
    if options.out is not None:
        figures = {
            "rounds": options.rounds,
            "load_average_before": round(load, 1),
            "rows": rows,
        }
        write_record(options.out, figures, "torchmetrics")


if __name__ == "__main__":
    main()
