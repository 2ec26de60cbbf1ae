"""What is printed in notebooks and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelSummary
from rich.console import Console
from tests.people import Own, loader, trainer

import acnet_pl
from acnet_pl.callbacks import ConvSummary, ProgressBar
from acnet_pl.quiet import keep_quiet

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Jupyter:
    is_jupyter = True
    is_terminal = False


class Terminal:
    is_jupyter = False
    is_terminal = True


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_without_ipywidgets_gets_lines(
    widgets: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("acnet_pl.callbacks.display.get_console", Jupyter)
    monkeypatch.setattr("acnet_pl.callbacks.display.find_spec", lambda _: object() if widgets else None)
    bar = ProgressBar()
    assert bar.is_enabled == widgets
    if not widgets:
        run = trainer(tmp_path, bar, enable_progress_bar=True)
        run.fit(Shown(), loader(Own), loader(Own))
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
        assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        assert all("val_loss " in line for line in lines)


def test_a_file_gets_lines_and_a_terminal_a_bar(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("acnet_pl.callbacks.display.get_console", Terminal)
        assert ProgressBar().is_enabled
    monkeypatch.setattr("acnet_pl.callbacks.display._LINE_SECONDS", 0.0)  # every batch is a minute old
    run = trainer(tmp_path, ProgressBar(), enable_progress_bar=True, max_epochs=1)
    run.fit(Shown(), loader(Own), loader(Own))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    batches = len(loader(Own))
    assert [line.split("  ")[1:2] for line in lines[:-1]] == [[f"batch {n}/{batches}"] for n in range(1, batches + 1)]
    assert lines[-1].split("  ")[0] == "epoch 1/1"


def test_bar_and_lines_count_epochs_from_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[str] = []
    monkeypatch.setattr(ProgressBar, "_add_task", lambda self, total, description, **_: bars.append(description))
    monkeypatch.setattr("acnet_pl.callbacks.display.get_console", lambda: Console(force_terminal=True))
    trainer(tmp_path, ProgressBar(), enable_progress_bar=True, max_epochs=2).fit(Shown(), loader(Own), loader(Own))
    assert list(dict.fromkeys(name.strip() for name in bars if name.startswith("Epoch"))) == ["Epoch 1/2", "Epoch 2/2"]
    monkeypatch.setattr("acnet_pl.callbacks.display.get_console", Jupyter)
    monkeypatch.setattr("acnet_pl.callbacks.display.find_spec", lambda _: None)
    trainer(tmp_path, ProgressBar(), enable_progress_bar=True, max_epochs=-1, max_steps=3).fit(
        Shown(), loader(Own), loader(Own)
    )
    assert "\nepoch 1  " in capsys.readouterr().out  # of how many nobody knows


class Shown(Own):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)


def test_there_is_one_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, ConvSummary(), ModelSummary(), max_epochs=1, enable_model_summary=True)
    run.fit(Own(), loader(Own), loader(Own))
    out = capsys.readouterr().out
    assert "ACBlock 3×3 (3×3 + 1×3 + 3×1)" in out
    assert "Total params" not in out


def test_lightnings_tips_are_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_quiet()
    trainer(tmp_path, max_epochs=1).fit(Own(), loader(Own), loader(Own))
    assert not [record for record in caplog.records if "Tip:" in record.getMessage()]


def test_the_package_says_what_is_in_it() -> None:
    assert {"callbacks", "data", "backbones", "analysis", "compare", "save_fused", "__version__"} <= set(dir(acnet_pl))
    assert all(getattr(acnet_pl, name) is not None for name in dir(acnet_pl))
    assert acnet_pl.__version__[0].isdigit()
    for part in ("acnet_pl.callbacks", "acnet_pl.data", "acnet_pl.backbones", "compare"):
        assert part in (acnet_pl.__doc__ or "")


def test_blocks_and_reports_are_shown_without_what_they_lack() -> None:
    assert "None" not in repr(acnet_pl.ACBlock(3, 4, 3))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 1))
    report = acnet_pl.conversion_report(acnet_pl.convert_to_acnet(model))
    html = report._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>3×3 conv 3→4</td><td>block</td><td>1</td>" in html


def test_a_network_that_is_built_already_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="`backbone` is a Conv2d that is built already; give what builds it"):
        acnet_pl.ImageClassifier(torch.nn.Conv2d(3, 4, 3))  # type: ignore[arg-type]
