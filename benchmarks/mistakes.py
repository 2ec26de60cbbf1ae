"""What the command line answers to mistakes, and how soon: seconds as ratios to `import torch`.

    python benchmarks/mistakes.py [--rounds 3] [--out benchmarks/results/mistakes.json]

Each round starts `import torch` and then every mistake once, in a folder with a few configurations to mistake. A ratio
is to the `import torch` of the same round, by processor time, which other work on the machine disturbs less than the
clock. Medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from record import write_record

FILES = {
    "quickstart.yaml": "data:\n  class_path: acnet_pl.data.DigitsDataModule\n  init_args: {batch_size: 128}\n",
    "key.yaml": "modle:\n  backbone: VGG16\n",
    "tab.yaml": "model:\n\tbackbone: VGG16\n",
    "bracket.yaml": "data:\n  init_args: {batch_size: 32\n",
    "value.yaml": "trainer:\n  max_epochs: many\n",
}
MISTAKES = [
    "fitt",
    "fit --data.batchsize 32",
    "fit --lr 0.1",
    "fit --epochs 3",
    "fit --no_such_option 1",
    "fit --config quickstar.yaml",
    "fit --config key.yaml",
    "fit --config tab.yaml",
    "fit --config bracket.yaml",
    "fit --config value.yaml",
    "fit --trainer.max_epochs many",
    "fit --data.batch_size many",
    "fit --model.optimizer Adamm",
    "fit --model.schedule Cosine",
    "fit --model.backbone ResNetCifa",
    "fit --model.backbone ReLU",
    "fit --model.backbone ResNetCifar --model.backbone.dept 8",
    "fit --model.conv.position centre",
    "fit --data CIFARDataModule --data.root no/where",
    "test",
    "test --ckpt_path no/such.ckpt",
    "fuse no/such.ckpt",
    "export last.ckpt --format onxx",
    "reproduce tabel1",
    "reproduce digits --modles resnet8",
    "demo --epoch 3",
    # What only the classes themselves, the machine or the data can tell.
    "fit --model.backbone ResNetCifar --model.backbone.depth 9",
    "fit --trainer.accelerator gpu",
    "fit --trainer.precision 17",
    "fit --data.batch_size 5000",
]


def measure(command: list[str], folder: Path) -> tuple[float, float, int, str]:
    """Seconds by the clock and of the processor, the exit code, and what was said."""
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, "WANDB_MODE": "offline", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, done.returncode, done.stderr.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in FILES.items():
            (folder / file).write_text(content, encoding="utf-8")
        (folder / "last.ckpt").write_bytes(b"")
        rounds = []
        for _ in range(options.rounds):
            base = measure(["-c", "import torch"], folder)
            rounds.append([(measure(["-m", "acnet_pl", *line.split()], folder), base) for line in MISTAKES])

    rows = []
    table = Table("mistake", "message", "seconds", "to import torch", show_lines=True)
    for number, line in enumerate(MISTAKES):
        taken = [round_[number] for round_ in rounds]
        row = {
            "command": line,
            "exit_code": taken[0][0][2],
            "message": taken[0][0][3],
            "seconds": round(statistics.median(own[0] for own, _ in taken), 2),
            "to_torch": round(statistics.median(own[1] / base[1] for own, base in taken), 2),
        }
        rows.append(row)
        table.add_row(line, taken[0][0][3], f"{row['seconds']:.2f}", f"{row['to_torch']:.2f}")
    Console(width=140).print(table)
    if options.out is not None:
        write_record(options.out, {"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
