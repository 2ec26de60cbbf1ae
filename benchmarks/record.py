"""The JSON file that a benchmark leaves: its command, versions, hardware and the machine's load beside its figures."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from acnet_pl.provenance import versions


def write_record(path: Path, figures: Mapping[str, object], *packages: str) -> None:
    """Write a benchmark's figures, and what they were made with; ``packages`` name more that they depend on."""
    record = {
        "command": command_line(),
        "versions": versions(*packages),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load_average_at_the_end": [round(load, 1) for load in os.getloadavg()],
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def command_line() -> str:
    """The command of this process, without the folders of the machine, which are of no use elsewhere."""
    words = [f"DIR/{Path(word).name}" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
