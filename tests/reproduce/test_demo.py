from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.reproduce.conftest import Fabricate

from acnet_pl.cli import lightning, main
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser


def test_the_demo_reports_the_two_runs_that_it_trained(
    tmp_path: Path,
    parser: SettingsParser,
    fabricate: Fabricate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = Options(("digits",), ("cifar_quick",), ("plain", "acb"), (3,), epochs=2, runs_dir=tmp_path)
    planned = {one.run.name: one for one in make_plan(options, parser)["digits"][1]}
    accuracies = {"plain": 0.75, "acb": 0.875}

    def train(args: Sequence[str]) -> Path:
        one = planned[args[args.index("--name") + 1]]
        folder = fabricate(one, accuracies[one.run.variant])
        summary = json.loads((folder / "summary.json").read_text())
        summary["fused"]["path"] = str(folder / "fused.safetensors")
        (folder / "summary.json").write_text(json.dumps({**summary, "folder": str(folder)}))
        return folder

    monkeypatch.setattr(lightning, "run", train)
    assert main(["demo", "--epochs", "2", "--seed", "3", "--runs_dir", str(tmp_path)]) == 0
    assert str(tmp_path / "demo/report.html") in capsys.readouterr().out
    assert "ACNet 87.50 % against plain 75.00 %" in (tmp_path / "demo/report.html").read_text()
