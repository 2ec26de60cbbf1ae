"""What a benchmark's JSON file says beside its figures."""

import json
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def record(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/benchmarks/speed.py", "--data", "/home/me/my data", "--steps", "3"])
    return runpy.run_path(str(BENCHMARKS / "record.py"))


def test_the_command_is_there_without_the_folders_of_the_machine(record, tmp_path):
    record["write_record"](tmp_path / "new" / "speed.json", {"γ": [1.5]})
    text = (tmp_path / "new" / "speed.json").read_text(encoding="utf-8")
    assert "/home" not in text
    found = json.loads(text)
    assert found["command"] == "python benchmarks/speed.py --data 'DIR/my data' --steps 3"
    assert found["γ"] == [1.5]


def test_versions_of_further_packages_are_there(record, tmp_path):
    record["write_record"](tmp_path / "speed.json", {}, "numpy")
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert found["versions"]["numpy"] == version("numpy")
    assert found["versions"]["torch"] == version("torch")


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda path: path.name)
def test_published_figures_say_their_command_and_versions(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["command"].startswith("python benchmarks/")
    assert found["versions"]["torch"]
    assert not any(Path(word).is_absolute() for word in found["command"].split())


@pytest.mark.parametrize(
    "path",
    [*sorted(BENCHMARKS.glob("results/training_speed_*.json")), BENCHMARKS / "results" / "evaluation_speed.json"],
    ids=lambda path: path.name,
)
def test_the_page_on_training_speed_has_the_figures_that_were_measured(path):
    page = (BENCHMARKS.parent / "docs" / "training_speed.md").read_text(encoding="utf-8")
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if row["contender"] != "plain":
            low, high = row["ratio_quartiles"]
            assert f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})" in page, row
