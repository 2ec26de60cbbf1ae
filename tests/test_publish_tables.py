"""The tables of README.md, results/ and docs/ are those of the records."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("publish_tables", ROOT / "benchmarks" / "publish_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as for a script
        spec.loader.exec_module(module)
    return module


publish = _load()


@pytest.mark.parametrize("path", publish.places(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_says_what_its_records_say(path: Path) -> None:
    text = path.read_text()
    assert publish.filled(text) == text, "run python benchmarks/publish_tables.py"
    assert text.count("<!-- end -->") == len(publish.PLACE.findall(text))


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_table_and_spread_under_results_has_a_record(path: Path) -> None:
    by_hand = publish.PLACE.sub("", path.read_text())
    assert not re.findall(r"^\|.*|\d ± \d.*\d", by_hand.replace("80 % by ± 0.4 points", ""), re.MULTILINE)


def test_a_figure_that_was_changed_by_hand_is_found() -> None:
    text = (ROOT / "results" / "README.md").read_text()
    changed = text.replace("+0.82 ± 0.38", "+0.92 ± 0.38")
    assert changed != text
    assert publish.filled(changed) == text


def test_the_figures_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "results" / "cifar10-jpeg" / "h200_pairs.json").read_text())
    runs = record["top1_test_last_epoch"]["resnet20, 10 epochs, seeds 0-5"]
    gains = [b - a for a, b in zip(runs["plain_torchinit"], runs["acnet_torchinit"], strict=True)]
    said = publish.VIEWS["h200_gain"](record, "resnet20", "10", "acnet", "pytorch")
    assert said.startswith(f"{sum(gains) / 6:+.2f} points")
    assert said.endswith("+0.42 to +1.22, n = 6 pairs)")  # 0.817 ± 2.571 · 0.380 / √6


def test_a_record_whose_figures_are_not_those_of_its_runs_is_refused() -> None:
    record = json.loads((ROOT / "results" / "cifar10-jpeg" / "cheaper_cifar_quick.json").read_text())
    grid = {**record["grids"]["cheaper"], "name": "cheaper"}
    views = sys.modules["table_views"]
    assert views.checked_grid("file", grid) is grid
    grid["runs"][0]["summary"]["rotation"]["original/top1"] += 0.01
    with pytest.raises(ValueError, match="file: the figures of plain are"):
        views.checked_grid("file", grid)


def test_each_network_has_its_best_learning_rate() -> None:
    folder = ROOT / "results" / "cifar10-jpeg"

    def means(variant: str) -> dict[str, float]:
        found = {}
        for rate in ("0.05", "0.1", "0.2"):
            name, grid = ("cheaper", "cheaper") if rate == "0.1" else (f"rate_{rate}", "blocks")
            record = json.loads((folder / f"{name}_cifar_quick.json").read_text())["grids"][grid]["runs"]
            runs = [run["summary"]["metrics"] for run in record if run["variant"] == variant and run["seed"] in (0, 1)]
            found[rate] = 50 * sum(metrics["test/top1"] for metrics in runs)
        return found

    plain, acnet = means("plain"), means("acb")
    best = max(plain, key=plain.__getitem__), max(acnet, key=acnet.__getitem__)
    rows = [line.split(" | ") for line in (ROOT / "results" / "README.md").read_text().splitlines()]
    (row,) = [row for row in rows if row[0] == f"| best of each: {', '.join(best)}"]
    assert [float(cell.split(" ")[0]) for cell in row[1:5]] == pytest.approx(
        [2, plain[best[0]], acnet[best[1]], acnet[best[1]] - plain[best[0]]], abs=0.006
    )


def test_a_published_record_names_no_folder_of_the_machine() -> None:
    record = {
        "command": [
            "/opt/a/acnet_pl/__main__.py",
            "/home/me/x/experiments/cifar10/vgg16.yaml",
            "--data.root",
            "/data/c",
        ],
        "data": "cifar10, from /data/c, checksums verified",
        "folder": "/scratch/runs/vgg16/2026",
        "ratio": 0.5,
        "link": "https://example.org/a/b",
    }
    assert publish.without_paths(record) == {
        "command": ["__main__.py", "experiments/cifar10/vgg16.yaml", "--data.root", "DIR"],
        "data": "cifar10, from DIR, checksums verified",
        "folder": "runs/vgg16/2026",
        "ratio": 0.5,
        "link": "https://example.org/a/b",
    }
