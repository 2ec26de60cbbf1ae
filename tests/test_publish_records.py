"""`publish_tables.py` refuses faulty markers and records before it writes, and hides no mark and no baseline."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.test_publish_tables import ROOT, publish

GAIN = "<!-- gain r.json#cheaper resnet20 acb -->old<!-- end -->"
GAINS = "<!-- gains r.json#cheaper -->\nold\n<!-- end -->"


def _six_pairs() -> dict[str, Any]:
    """The published record as it was when it had plain networks and ACNets alone."""
    record: dict[str, Any] = json.loads((ROOT / "results" / "cifar10-jpeg" / "cheaper_resnet20.json").read_text())
    grid, pairs = record["grids"]["cheaper"], ("plain", "acb")
    grid["runs"] = [run for run in grid["runs"] if run["variant"] in pairs and run["summary"]]
    grid["figures"] = [figure for figure in grid["figures"] if figure["variant"] in pairs]
    return {**record, "grids": {"cheaper": {**grid, "fixed": grid["fixed"][:1], "mixed": []}}}


RECORD = _six_pairs()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one record and a text that has its gain."""
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(GAIN)
    _write(tmp_path / "results" / "r.json", RECORD)
    return tmp_path


def _write(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


def _changed(**grid: Any) -> dict[str, Any]:
    record: dict[str, Any] = copy.deepcopy(RECORD)
    record["grids"]["cheaper"].update(grid)
    return record


def _of(*variants: str, finished: bool = True) -> dict[str, Any]:
    """The record with runs of these variants alone; of the others there are none or, as planned, unfinished ones."""
    record = _changed()
    grid = record["grids"]["cheaper"]
    grid["figures"] = [figure for figure in grid["figures"] if figure["variant"] in variants]
    kept = [run for run in grid["runs"] if run["variant"] in variants]
    grid["runs"] = kept if finished else [run if run in kept else {**run, "summary": None} for run in grid["runs"]]
    return record


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = _files(folder)
    assert publish.main(arguments) == 2
    assert _files(folder) == before
    return str(capsys.readouterr().err)


def _table(record: dict[str, Any]) -> str:
    return str(publish.VIEWS["gains"]({**record["grids"]["cheaper"], "name": "cheaper"}))


def test_a_table_shows_what_the_record_marks() -> None:
    amiss = ["ResNet-20: MIXED. seed 6 added later.", "ResNet-20: UNFINISHED. seed 5 of the fixed ones."]
    lines = _table(
        _changed(fixed=[*RECORD["grids"]["cheaper"]["fixed"], *amiss], mixed=["torch: 1 (2 runs), 2 (4 runs)"])
    )
    assert lines.endswith("\n\n- " + "\n- ".join([*amiss, "The runs differ in torch: 1 (2 runs), 2 (4 runs)."]))
    assert _table(RECORD).splitlines()[-1].startswith("| ACNet")
    unknown = _changed()
    del unknown["grids"]["cheaper"]["fixed"]
    assert _table(unknown).endswith("\n\nThe record does not say when seeds and epochs were fixed.")


def test_a_table_shows_devices_that_differ_though_the_record_has_no_mark() -> None:
    record = _changed(mixed=[])
    record["grids"]["cheaper"]["runs"][0]["summary"]["versions"]["device"] = "another"
    assert "The runs differ in device: another (1 runs)" in _table(record)


def test_the_plan_is_said_in_the_words_of_the_record() -> None:
    plan = publish.VIEWS["plan"]
    fixed = ["A: 2 seeds.", "", "A: MIXED. seed 3 added."]
    fixed += ["A, plain and ACNet: 4 seeds.", "A, one batch norm after the sum: 5."]
    grid = {"name": "cheaper", "fixed": fixed[:3]}
    assert plan(grid) == plan(grid, "acb") == "A: 2 seeds. A: MIXED. seed 3 added."
    grid = {"name": "cheaper", "fixed": fixed[3:]}
    assert plan(grid) == " ".join(fixed[3:])
    assert plan(grid, "acb") == plan(grid, "plain", "acb") == fixed[3]
    assert plan(grid, "acb_norm_after_sum") == fixed[4]
    assert plan({"name": "cheaper"}) == "It is not recorded when seeds and epochs were fixed."
    filled = publish.filled("<!-- plan cifar10-jpeg/cheaper_cifar_quick.json#cheaper --><!-- end -->")
    assert "when 16 runs had finished" in filled


def test_gains_are_over_plain_wherever_it_stands() -> None:
    record = _changed()
    record["grids"]["cheaper"]["runs"].reverse()
    (row,) = [line for line in _table(record).splitlines() if line.startswith("| ACNet")]
    assert "+0.72 ± 0.40" in row
    assert "| gain over plain |" in _table(record)


@pytest.mark.parametrize("finished", [True, False])
def test_without_plain_no_gain_is_called_one_over_plain(finished: bool) -> None:
    record = _of("acb", finished=finished)
    assert "gain" not in _table(record)
    for run in copy.deepcopy(record["grids"]["cheaper"]["runs"]):
        if run["summary"]:
            record["grids"]["cheaper"]["runs"].append({**run, "variant": "acb_scaled"})
    assert "| gain over ACNet |" in _table(record)
    assert "multiplications" not in _table(record)


def test_a_record_is_added_and_the_texts_are_written(folder: Path) -> None:
    new = _write(folder / "results.json", {**RECORD, "folder": "/home/Jane Doe/x"})
    before = _files(folder)
    assert publish.main(["--add", str(new), str(folder / "results" / "r.json"), "--check"]) == 1
    assert _files(folder) == before
    assert publish.main(["--add", str(new), str(folder / "results" / "r.json")]) == 0
    assert json.loads((folder / "results" / "r.json").read_text()) == {**RECORD, "folder": "DIR"}
    assert "+0.72 points" in (folder / "README.md").read_text()
    assert publish.main(["--check"]) == 0


def test_finished_runs_are_not_replaced_by_a_record_without_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "README.md").write_text("")
    new, old = _write(folder / "new.json", _of("plain")), folder / "results" / "r.json"
    said = _refused(folder, capsys, "--add", str(new), str(old))
    assert re.search(
        r"has 6 finished runs .*: cheaper resnet20 acb seed 0, .* and 2 more; --replace drops them\n$", said
    )
    other = _changed()
    other["grids"]["cheaper"]["runs"][3]["summary"]["epochs"] = 1
    assert "1 finished run that" in _refused(folder, capsys, "--add", str(_write(new, other)), str(old))
    assert publish.main(["--replace", "--add", str(_write(new, _of("plain"))), str(old)]) == 0
    assert "acb" not in {run["variant"] for run in json.loads(old.read_text())["grids"]["cheaper"]["runs"]}


def test_a_record_that_a_text_cannot_be_made_from_is_not_added(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "docs" / "a.md").write_text("<!-- top1 r.json#cheaper resnet20 plain --><!-- end -->")
    new = _write(folder / "new.json", _of("plain"))
    said = _refused(folder, capsys, "--replace", "--add", str(new), str(folder / "results" / "r.json"))
    assert said == (
        "README.md:1: <!-- gain r.json#cheaper resnet20 acb -->: 'acb' is no variant of resnet20 with "
        "finished runs; there is plain\n"
    )
    for content in ("[]", "{"):
        new.write_text(content)
        assert str(new) in _refused(folder, capsys, "--add", str(new), str(folder / "results" / "n.json"))
    assert "No such file" in _refused(folder, capsys, "--add", "missing.json", str(folder / "results" / "n.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"a\n{GAIN[:-12]} words\n{GAINS}",
            "README.md:2: <!-- gain r.json#cheaper resnet20 acb --> has no <!-- end -->",
        ),
        (f"\n{GAINS[:-12]} words", "README.md:2: <!-- gains r.json#cheaper --> has no <!-- end --> after it"),
        (f"{GAIN[:-12]} <!-- words --> <!-- end -->", "README.md:1: <!-- gain r.json#cheaper resnet20 acb --> has no"),
        (f"{GAIN}\nwords <!-- end -->", "README.md:2: <!-- end --> closes no marker"),
        (GAIN.replace("end -->", "END -->"), "is not written as <!-- end -->"),
        (GAIN.replace(" end", "end"), "is not written as <!-- end -->"),
        (GAIN.replace("gain ", "gain  "), "README.md:1: <!-- gain  r.json#cheaper resnet20 acb --> is not written"),
        (GAIN.replace("<!-- gain", "<!--gain"), "README.md:1: <!--gain r.json#cheaper resnet20 acb --> is not written"),
        (GAIN.replace("<!-- gain", "<!-- Gain"), "'Gain' is no view (did you mean 'gain'?); there is "),
        (GAIN.replace("gain ", "table "), "'table' is no view"),
        ("<!-- gains\nr.json#cheaper -->", "README.md:1: <!-- gains r.json#cheaper --> is not written"),
        ("<!-- gains r.json#cheaper", "README.md:1: <!-- gains r.json#cheaper is not written"),
        ("<!-- gains -->", "README.md:1: <!-- gains --> is not written exactly as a marker"),
        (GAIN.replace("r.json", "s.json"), "'s.json' is no record (did you mean 'r.json'?); there is r.json"),
        (GAIN.replace("#cheaper", ""), "this view needs r.json#GRID; grids of the file: cheaper"),
        (GAIN.replace("#cheaper", "#cheap"), "'cheap' is no grid in r.json (did you mean 'cheaper'?)"),
        (GAIN.replace("resnet20", "resnet56"), "'resnet56' is no model with finished runs (did you mean 'resnet20'?)"),
        (
            GAIN.replace(" acb", " abc"),
            "'abc' is no variant of resnet20 with finished runs (did you mean 'acb'?); there is ",
        ),
        (GAIN.replace(" acb", ""), "gain takes MODEL VARIANT [BASE] after the record"),
        (GAIN.replace(" acb", " acb plain more"), "gain takes MODEL VARIANT [BASE] after the record"),
        ("<!-- cost r.json#cheaper resnet20 acb money --><!-- end -->", "'money' is no cost; there is mult"),
        ("<!-- scale r.json acb --><!-- end -->", "the record is not of the form that scale reads: KeyError('scales')"),
        ("<!-- scale r.json#cheaper acb --><!-- end -->", "not of the form that scale reads"),
    ],
)
def test_a_faulty_marker_is_named_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (folder / "README.md").write_text(text)
    (folder / "docs" / "a.md").write_text(GAIN)  # would be written
    message = _refused(folder, capsys)
    assert said in message
    assert message.count("\n") == 1


def test_ordinary_comments_stay() -> None:
    text = (
        "<!-- counted -->\n<!-- end of counted -->\n<!-- see r.json -->\n<!-- the gain is in r.json#cheaper -->"
        "<!-- gain of the block -->\n<!-- TODO: rates of r.json, 5 % -->"
    )
    assert publish.filled(text) == text


@pytest.mark.parametrize(
    "path",
    [
        "/home/Jane Doe/my data/cifar",
        "/home/Doe, Jane/cifar",
        "file:///home/jane/x",
        "../jane/runs",
        "./jane/runs",
        r"C:\Users\Jane\x",
        "C:/Users/Jane/x",
        r"\\server\jane\x",
        "~/x",
        "~jane/x",
        "/home/jane/experiments/secret/a.yaml",
        "/home/jane/runs/secret",
        "experiments/../jane",
    ],
)
def test_no_path_of_the_machine_is_left(path: str) -> None:
    command = ["--data.root", path, f"--data.root={path}", path]
    assert publish.without_paths({"command": command})["command"] == ["--data.root", "DIR", "--data.root=DIR", "DIR"]
    assert publish.without_paths({"folder": path, "fused": {"path": path}}) == {
        "folder": "DIR",
        "fused": {"path": "DIR"},
    }
    if not path.startswith("experiments"):
        data = publish.without_paths({"data": f"cifar10, from {path}, checksums verified, 0 training images held out"})
        assert data == {"data": "cifar10, from DIR, checksums verified, 0 training images held out"}
        assert publish.without_paths([f"None → {path}", json.dumps({"a": path, "b": "1/2"})])[0] == "None → DIR"
        assert json.loads(publish.without_paths([json.dumps({"a": path, "b": "1/2"})])[0]) == {"a": "DIR", "b": "1/2"}


def test_a_published_record_keeps_what_is_of_the_package() -> None:
    record = {
        "command": [
            "/opt/a/acnet_pl/__main__.py",
            "/home/Jane Doe/x/experiments/cifar10/vgg16.yaml",
            "--records=results/cifar10-jpeg/new.json",
            "--monitor",
            "val/top1",
            "--data.root",
            "/data/c",
        ],
        "data": "cifar10, from /data/c, checksums verified",
        "folder": "/scratch/runs/vgg16/2026",
        "fused": {"path": "/home/Jane Doe/out/vgg16/2026-11-28T00-28-06/fused.safetensors"},
        "ratio": 0.5,
        "link": "https://example.org/a/b",
    }
    assert publish.without_paths(record) == {
        "command": [
            "__main__.py",
            "experiments/cifar10/vgg16.yaml",
            "--records=results/cifar10-jpeg/new.json",
            "--monitor",
            "val/top1",
            "--data.root",
            "DIR",
        ],
        "data": "cifar10, from DIR, checksums verified",
        "folder": "runs/vgg16/2026",
        "fused": {"path": "vgg16/2026-11-28T00-28-06/fused.safetensors"},
        "ratio": 0.5,
        "link": "https://example.org/a/b",
    }
    assert publish.without_paths({"command": "python x.py --root '/home/Jane Doe/x' --out results/a.json"}) == {
        "command": "python x.py --root DIR --out results/a.json"
    }


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "cifar10-jpeg").glob("*.json")), ids=lambda path: path.name)
def test_published_records_have_no_path(path: Path) -> None:
    record = json.loads(path.read_text())
    assert publish.without_paths(record) == record
