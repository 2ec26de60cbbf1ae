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


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as for a script
        spec.loader.exec_module(module)
    return module


publish = _load("publish_tables")


@pytest.mark.parametrize("path", publish.places(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_says_what_its_records_say(path: Path) -> None:
    text = path.read_text()
    assert publish.filled(text, path.name) == text, "run python benchmarks/publish_tables.py"


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_table_and_spread_under_results_has_a_record(path: Path) -> None:
    by_hand = publish.by_hand(path.read_text())
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


def test_a_gain_over_another_contender_and_those_of_other_records() -> None:
    record = json.loads((ROOT / "results" / "cifar10-jpeg" / "h200_pairs.json").read_text())
    runs = record["top1_test_last_epoch"]["resnet20, 10 epochs, seeds 0-5"]
    after = runs["norm_after_sum_torchinit"]
    differences = [b - a for a, b in zip(after, runs["acnet_torchinit"], strict=True)]
    said = publish.VIEWS["h200_gain"](record, "resnet20", "10", "acnet", "pytorch", "norm_after_sum")
    assert said.startswith(f"{sum(differences) / 6:+.2f} points")
    drops = {"drops": [0.25, -0.07]}
    assert publish.VIEWS["int8"]({"summary_percent": {"acnet folded": {"int8_x": drops}}}, "acnet", "x") == (
        "−0.09 points (−0.25, +0.07)"
    )
    tuned = {"runs": [{"seed": seed, "plain": 0.5, "acnet_in_stock": top1} for seed, top1 in enumerate((0.51, 0.52))]}
    assert publish.VIEWS["finetuned"](tuned) == "+1.50 points (95 % interval −4.85 to +7.85, n = 2 pairs)"


def test_no_block_is_told_apart_from_another() -> None:
    record = json.loads((ROOT / "results" / "cifar10-jpeg" / "blocks_cifar_quick.json").read_text())
    gains = [figure["gain"] for figure in record["grids"]["blocks"]["figures"] if figure["variant"] != "plain"]
    assert len(gains) == 8
    assert all(low <= gain["mean"] <= high for gain in gains for low, high in (other["interval"] for other in gains))


def test_a_record_whose_figures_are_not_those_of_its_runs_is_refused() -> None:
    record = json.loads((ROOT / "results" / "cifar10-jpeg" / "cheaper_cifar_quick.json").read_text())
    grid = {**record["grids"]["cheaper"], "name": "cheaper"}
    views = sys.modules["table_views"]
    assert views.checked_grid("file", grid) is grid
    grid["runs"][0]["summary"]["rotation"]["original/top1"] += 0.01
    with pytest.raises(publish.PublishError, match="file: the figures of plain are"):
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


def test_the_picture_of_the_readme_says_what_the_records_say(tmp_path: Path) -> None:
    _load("readme_picture").main(["--out", str(tmp_path / "acnet.svg")])
    texts = [  # matplotlib writes each text as a comment beside its outlines
        re.findall(r"<!-- (.*?) -->", (folder / "acnet.svg").read_text(), re.DOTALL)
        for folder in (tmp_path, ROOT / "docs" / "images")
    ]
    assert texts[0] == texts[1], "run python benchmarks/readme_picture.py"
    assert "ResNet-20, 10 epochs" in texts[0]


def test_new_blocks_have_the_output_scales_that_are_published() -> None:
    measure = _load("output_scales")
    scales = json.loads((ROOT / "results" / "output_scales.json").read_text())["scales"]
    assert set(scales) == set(measure.VARIANTS)
    for name, by_shape in scales.items():
        for title, shape in measure.SHAPES.items():
            measured = measure.output_scale(measure.builder(name), shape, seed=5)
            assert measured == pytest.approx(by_shape[title], rel=0.04), (name, title)
