"""Collect finished runs of plain networks and their ACNets into one results file, with mean and standard deviation.

    python benchmarks/collect_runs.py --data-name "CIFAR-10, JPEG q75 copy" --out results/NAME.json RUN_FOLDER...

Runs are grouped by backbone, conv options and number of epochs; each must hold its summary.json and config.yaml.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml


def read(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    accuracy = {name: value for name, value in summary["rotation"].items() if name.endswith("/top1")}
    return {
        "seed": config["seed_everything"],
        "conv": summary["conv"],
        "backbone": summary["backbone"],
        "epochs": summary["epochs"],
        "test_top1_trained": summary["metrics"]["test/top1"],
        "test_top1_folded": accuracy.pop("original/top1"),
        "test_top1_folded_rotated": {name.removesuffix("/top1"): value for name, value in accuracy.items()},
        "equivalence": summary["equivalence"],
        "parameters": {k: summary["fused"][f"parameters_{k}"] for k in ("trained", "folded")},
        "macs": {k: summary["fused"][f"macs_{k}"] for k in ("trained", "folded")},
        "seconds_per_epoch": summary["seconds_per_epoch"],
        "command": ["python", *(_relative(word) for word in summary["command"])],
        "versions": summary["versions"],
    }


def _relative(word: str) -> str:
    """Paths of the machine it ran on are of no use elsewhere."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(Path(*path.parts[path.parts.index("experiments") :])) if "experiments" in path.parts else "DIR"


def _spread(values: list[float]) -> dict[str, float | int | None]:
    return {"n": len(values), "mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-name", required=True)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    runs = sorted((read(folder) for folder in options.runs), key=lambda run: (run["conv"]["class_path"], run["seed"]))
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["conv"]["class_path"].rpartition(".")[2], []).append(run)
    table = {
        name: {
            "test_top1_trained": _spread([run["test_top1_trained"] for run in members]),
            "test_top1_folded": _spread([run["test_top1_folded"] for run in members]),
            **{
                f"test_top1_folded_{view}": _spread([run["test_top1_folded_rotated"][view] for run in members])
                for view in members[0]["test_top1_folded_rotated"]
            },
            "max_abs_difference": max(run["equivalence"]["max_abs_difference"] for run in members),
            "max_rel_difference": max(run["equivalence"]["max_rel_difference"] for run in members),
        }
        for name, members in groups.items()
    }
    result = {"data": options.data_name, "note": options.note, "summary": table, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in table.items():
        folded = row["test_top1_folded"]
        print(f"{name}: {100 * folded['mean']:.2f} ± {100 * (folded['std'] or 0):.2f} % (n = {folded['n']})")


if __name__ == "__main__":
    main()
