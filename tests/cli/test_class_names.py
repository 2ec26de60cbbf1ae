"""A checkpoint is not evaluated on data whose classes have other names, or the same in another order."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from PIL import Image

import acnet_pl
from acnet_pl.callbacks import Preprocessing
from acnet_pl.checkpoint import load_network, preprocessing_of, read_checkpoint
from acnet_pl.cli import main
from acnet_pl.cli.evaluation import evaluation_folder
from acnet_pl.cli.loggers import wandb_mode
from acnet_pl.config.own_options import WandbOptions
from acnet_pl.data import DigitsDataModule, ImageFolderDataModule

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eighteen test digits, 9, 7 and 3 alone: ``photos/<digit>/<number>.png``."""
    folder = tmp_path_factory.mktemp("digits")
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    for digit in (3, 7, 9):
        (folder / str(digit)).mkdir()
        for number in (data.test_set.labels == digit).nonzero().flatten()[:6].tolist():
            Image.fromarray(data.test_set.images[number].numpy()).save(folder / str(digit) / f"{number:03}.png")
    return folder


def options(finished, photos):
    return ["test", "--ckpt_path", str(finished / "checkpoints/last.ckpt"), "--trainer.enable_progress_bar", "false",
            "--data", "ImageFolderDataModule", "--data.root", str(photos), "--data.num_workers", "0",
            "--data.val_size", "1", "--trainer.accelerator", "cpu", "--rotation.enabled", "false"]  # fmt: skip


def test_other_classes_are_an_error_that_shows_both(finished, photos, tmp_path, capsys):
    assert main([*options(finished, photos), "--runs_dir", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "trained on: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' (10)" in message
    assert "these data: '3', '7', '9' (3)" in message
    assert "--map_classes true" in message


def test_mapped_by_name_photos_are_evaluated_as_the_checkpoints_images(finished, photos, tmp_path):
    assert main([*options(finished, photos), "--runs_dir", str(tmp_path), "--name", "m", "--map_classes", "true"]) == 0
    (file,) = (tmp_path / "m").glob("*/metrics.csv")
    with file.open() as lines:
        accuracy = float(list(csv.DictReader(lines))[-1]["test/top1"])
    data = ImageFolderDataModule(photos, image_size=8, resize=8, val_size=1, num_workers=0)
    data.setup("test")
    images, labels, _ = next(iter(data.test_dataloader()))
    network = acnet_pl.load_fused(finished / "fused.safetensors")
    with torch.no_grad():
        predicted = network(DigitsDataModule(image_size=8).normalize(images)).argmax(1)
    expected = torch.tensor([3, 7, 9])[labels]  # each folder has the label of the checkpoint
    assert accuracy == pytest.approx((predicted == expected).double().mean().item())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["test", "--map_classes", "true", "--data", "DigitsDataModule", "--ckpt_path", "CKPT"],
            "ImageFolderDataModule",
        ),
        (["fit", "--map_classes", "true"], "give its file with --ckpt_path"),
    ],
)
def test_what_cannot_be_mapped_is_said(words, message, finished, capsys):
    given = [str(finished / "checkpoints/last.ckpt") if word == "CKPT" else word for word in words]
    assert main(given) == 1
    assert message in capsys.readouterr().err


class Names(pl.LightningDataModule):
    """Data of two classes with names."""

    image_shape, mean, std = (3, 4, 4), (0.0,) * 3, (1.0,) * 3

    def __init__(self, names):
        super().__init__()
        self.class_names = names

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(4, 3, 4, 4), batch_size=2)

    test_dataloader = train_dataloader


class Net(pl.LightningModule):
    """Any module."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(48, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch.flatten(1)).mean()

    def test_step(self, batch, batch_idx):
        self.layer(batch.flatten(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(tmp_path):
    return pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False,
                      enable_model_summary=False, default_root_dir=tmp_path, callbacks=[Preprocessing()],
                      enable_checkpointing=False)  # fmt: skip


def test_in_a_script_the_callback_compares(tmp_path):
    fitting = trainer(tmp_path)
    fitting.fit(Net(), datamodule=Names(["cat", "dog"]))
    fitting.save_checkpoint(path := tmp_path / "last.ckpt")
    assert preprocessing_of(read_checkpoint(path))["class_names"] == ["cat", "dog"]
    trainer(tmp_path).test(Net(), datamodule=Names(["cat", "dog"]), ckpt_path=path, verbose=False)
    with pytest.raises(ValueError, match=r"in another order than those .*\n.*'cat', 'dog'.*\n.*'dog', 'cat'"):
        trainer(tmp_path).test(Net(), datamodule=Names(["dog", "cat"]), ckpt_path=path, verbose=False)


def test_a_checkpoint_tells_how_its_images_are_prepared(finished):
    _, info = load_network(finished / "checkpoints/last.ckpt")
    about = acnet_pl.fused_info(finished / "fused.safetensors")["preprocessing"]
    assert info["preprocessing"] == about
    assert about["image_shape"] == [3, 8, 8]


def test_results_lie_in_the_folder_of_the_run(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config = Namespace(ckpt_path=str(run / "checkpoints/last.ckpt"), runs_dir="runs", name=None)
    (run / "config.yaml").write_text("{}")
    assert evaluation_folder(config, "test", "any").parent == run / "test"
    elsewhere = Namespace(**{**config.as_dict(), "runs_dir": str(tmp_path / "other")})
    folder = evaluation_folder(elsewhere, "test", "any")
    assert folder.parent == tmp_path / "other" / "any"
    assert folder.name.endswith("-test")
    assert Path(folder).is_dir()


def test_an_evaluation_writes_to_wandb_where_asked(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(WandbOptions(), "fit") == "offline"
    assert wandb_mode(WandbOptions(), "test") == "disabled"
    assert wandb_mode(WandbOptions(mode="online"), "predict") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(WandbOptions(), "test") == "offline"
    assert wandb_mode(WandbOptions(), "predict") == "disabled"
