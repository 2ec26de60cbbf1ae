"""The best checkpoint of a run that is gone on with: in another folder, and where its state names others' files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tests.people import Own, loader, trainer

from acnet_pl.callbacks import FuseOnFitEnd, RunCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory")
SCORES = [0.3, 0.9, 0.5, 0.4, 0.2, 0.1]  # by epoch


class Scored(Own):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", SCORES[self.current_epoch], batch_size=1)


def fit(folder: Path, epochs: int, goes_on: bool = True, **options: Any) -> tuple[ModelCheckpoint, FuseOnFitEnd]:
    options = {"filename": "{epoch}", "monitor": "score", "mode": "max", "save_top_k": 2, **options}
    best, fuse = ModelCheckpoint(options.pop("dirpath", folder / "checkpoints"), **options), FuseOnFitEnd()
    last = folder / "checkpoints" / "last.ckpt"
    run = trainer(folder, RunCheckpoint(), best, fuse, enable_checkpointing=True, max_epochs=epochs)
    run.fit(Scored(), loader(Own), loader(Own), ckpt_path=last if goes_on else None)
    return best, fuse


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after three epochs."""
    folder = tmp_path_factory.mktemp("run") / "stopped"
    fit(folder, 3, goes_on=False)
    (folder / "fused.safetensors").unlink()
    last = folder / "checkpoints" / "last.ckpt"
    state = torch.load(last)
    state["acnet_pl"]["trained"] = False  # as it was before the end
    torch.save(state, last)
    return folder


def moved(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "moved"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state of the ModelCheckpoint in ``last.ckpt``."""
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    change(state)
    torch.save(content, last)


def test_a_run_whose_folder_was_moved_keeps_its_best_checkpoints(stopped: Path, tmp_path: Path) -> None:
    folder = moved(stopped, tmp_path)
    best, fuse = fit(folder, 5)
    assert best.best_model_path == str(folder / "checkpoints/epoch=1.ckpt")
    assert best.best_model_score == pytest.approx(0.9)
    assert fuse.result is not None
    assert (fuse.result.weights, fuse.result.checkpoint) == ("best", best.best_model_path)
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"epoch=1.ckpt", "epoch=2.ckpt"}
    assert (stopped / "checkpoints/epoch=2.ckpt").is_file()


def test_a_best_checkpoint_that_is_lost_is_told(stopped: Path, tmp_path: Path) -> None:
    folder = moved(stopped, tmp_path)
    (folder / "checkpoints/epoch=1.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"best checkpoint so far, .*epoch=1.ckpt, is not in .*those that are there"):
        best, _ = fit(folder, 4)
    assert best.best_model_path == str(folder / "checkpoints/epoch=2.ckpt")


@pytest.mark.parametrize(
    "path", ["{folder}/checkpoints/../../thesis.txt", "{parent}/thesis.txt", "{folder}/checkpoints/link.ckpt"]
)
def test_a_state_removes_and_names_nothing_outside_the_folder(path: str, stopped: Path, tmp_path: Path) -> None:
    folder, thesis = moved(stopped, tmp_path), tmp_path / "thesis.txt"
    thesis.write_text("precious")
    (folder / "checkpoints/link.ckpt").symlink_to(thesis)
    path = path.format(folder=folder, parent=tmp_path)

    def forge(state: dict[str, Any]) -> None:
        state |= dict.fromkeys(("kth_best_model_path", "best_model_path", "last_model_path"), path)
        state |= {"dirpath": f"{folder}/checkpoints", "best_k_models": {path: torch.tensor(-9.0)}}

    edit(folder, forge)
    with pytest.warns(UserWarning, match="the best is chosen among the epochs to come"):
        best, _ = fit(folder, 5, save_top_k=1)
    assert Path(best.best_model_path).name == "epoch=3.ckpt"
    assert thesis.read_text() == "precious"


def test_in_a_folder_of_the_users_what_is_no_checkpoint_of_the_network_is_left_alone(
    stopped: Path, tmp_path: Path
) -> None:
    folder, models = moved(stopped, tmp_path), tmp_path / "models"
    models.mkdir()
    shutil.copy(folder / "checkpoints/epoch=1.ckpt", models / "kept.ckpt")
    (models / "thesis.ckpt").write_text("precious")

    def forge(state: dict[str, Any]) -> None:
        scores = {"/x/thesis.ckpt": torch.tensor(-9.0), "/x/kept.ckpt": torch.tensor(0.9)}
        state |= {"dirpath": "/x", "best_k_models": scores, "best_model_path": "/x/kept.ckpt"}
        state |= {"kth_best_model_path": "/x/thesis.ckpt", "last_model_path": ""}

    edit(folder, forge)
    best, _ = fit(folder, 5, dirpath=models)
    assert best.best_model_path == str(models / "kept.ckpt")
    assert (models / "thesis.ckpt").read_text() == "precious"


def test_a_state_that_is_none_is_left_out(stopped: Path, tmp_path: Path) -> None:
    folder = moved(stopped, tmp_path)
    edit(folder, lambda state: state.update(dirpath=3))
    with pytest.warns(UserWarning, match="what the checkpoint says of ModelCheckpoint cannot be read"):
        assert Path(fit(folder, 4)[0].best_model_path).name == "epoch=3.ckpt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_last": True}, r"save_last=True\) would replace .*last.ckpt, from which a killed run continues"),
        ({"filename": "previous"}, r"filename='previous'\) would write a file that RunCheckpoint writes too"),
        ({"filename": "{"}, r"filename='{'\) is no pattern of a file's name"),
    ],
)
def test_files_that_would_get_in_each_others_way_are_told_before_the_first_step(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, 1, goes_on=False, **options)
    assert not list(tmp_path.rglob("*.ckpt"))
