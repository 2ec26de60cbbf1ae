"""Which run `--resume` goes on with, and what it says of those that it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.cli.resume import find_run

NO_MODEL: Any = None  # it is looked at for a run that has a checkpoint
OPTIONS: dict[str, Any] = {
    "runs_dir": "runs",
    "model": {"backbone": {"class_path": "acnet_pl.backbones.CifarQuick"}, "conv": None},
    "trainer": {"max_epochs": 4, "devices": 1, "precision": "32-true", "benchmark": None},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was killed before its first checkpoint."""
    folder = tmp_path / "runs" / "name" / "2026-01-01T00-00-00"
    folder.mkdir(parents=True)
    (folder / "UNFINISHED").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(OPTIONS))
    return folder


def find(run: Path, how: str = "auto", **trainer: Any) -> Any:
    options = {**OPTIONS, "trainer": {**OPTIONS["trainer"], **trainer}}
    return find_run(how, [run], yaml.safe_dump(options), NO_MODEL)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "pytorch_lightning.utilities.rank_zero")
    return caplog


@pytest.mark.parametrize("damage", ["", "a: [", "- 1", "\0", None])
def test_a_run_whose_configuration_is_damaged_is_named(
    run: Path, damage: str | None, said: pytest.LogCaptureFixture
) -> None:
    config = run / "config.yaml"
    if damage is None:
        config.unlink()
    else:
        config.write_text(damage)
    assert find(run) is None
    assert f"{run} has not ended either, but its config.yaml cannot be read" in said.text
    assert f"--print_config > {config}" in said.text
    with pytest.raises(ValueError, match=r"there is no config\.yaml in it that can be read; write it anew"):
        find(run, str(run))


def test_options_that_differ_are_named(run: Path, said: pytest.LogCaptureFixture) -> None:
    assert find(run, max_epochs=6, devices=2) is None
    assert "(trainer.devices 1 -> 2, trainer.max_epochs 4 -> 6)" in said.text
    assert f"to go on with it, give --resume {run}" in said.text
    assert find(run, max_epochs=6, devices=2, precision="x", benchmark=True) is None
    assert "trainer.max_epochs 4 -> 6, and 1 more)" in said.text


def test_a_folder_of_runs_is_no_run(run: Path) -> None:
    with pytest.raises(ValueError, match="name: a folder of runs, not one of them; give the folder of one"):
        find(run, str(run.parent))
    with pytest.raises(ValueError, match="elsewhere: there is no such folder"):
        find(run, "elsewhere")


def test_a_run_is_gone_on_with_where_it_was_moved_to(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(tmp_path / "runs", tmp_path / "elsewhere")) / "name" / run.name
    options = {**OPTIONS, "runs_dir": "elsewhere"}
    found = find_run("auto", [moved], yaml.safe_dump(options), NO_MODEL)
    assert found is not None
    assert (found.folder, found.checkpoint) == (moved, None)
    assert found.claim is not None
    found.claim.abandon()
