"""``python -m acnet_pl data``."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from acnet_pl.cli import main
from acnet_pl.data import CIFARDataModule, ImageNetDataModule

pytest.importorskip("litdata")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{index}.jpg")
    return tmp_path / "images"


def test_folders_become_shards_that_can_be_trained_on(images, tmp_path, capsys):
    shards = tmp_path / "shards"
    assert main(["data", "optimize", str(images), str(shards), "--shard_mb", "0.01", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert "train: 12 images in" in text
    assert f"--data.root {shards}" in text
    data = ImageNetDataModule(shards, 32, 36, batch_size=4, num_workers=0)
    assert data.class_names == ["cat", "dog"]
    data.setup("fit")
    assert sorted(torch.cat([labels for _, labels, _ in data.train_dataloader()]).tolist()) == [0] * 6 + [1] * 6
    assert main(["data", "check", str(shards)]) == 0
    assert "val: 4 images of 2 classes" in capsys.readouterr().out


def test_cifar_becomes_shards_without_loss(cifar10_root, publish_md5, tmp_path):
    publish_md5(cifar10_root, 10)
    assert main(["data", "optimize", str(cifar10_root), str(tmp_path / "shards")]) == 0
    cifar = CIFARDataModule(root=cifar10_root, val_size=0)
    cifar.setup()
    data = ImageNetDataModule(tmp_path / "shards", 32, 32, num_workers=0)
    data.setup()
    assert data.class_names == cifar.class_names
    images, labels, _ = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    rows = {(*image.flatten().tolist(), label) for image, label in zip(images, labels.tolist(), strict=True)}
    stored = zip(cifar.test_set.images, cifar.test_set.labels.tolist(), strict=True)
    assert rows == {(*image.flatten().tolist(), label) for image, label in stored}


def test_unreadable_files_are_all_named(images, capsys):
    for name in ("train/cat/3.jpg", "val/dog/0.jpg"):
        (images / name).write_bytes(b"")
    assert main(["data", "check", str(images), "--workers", "2"]) == 1
    captured = capsys.readouterr()
    assert "train/cat/3.jpg: " in captured.out
    assert "val/dog/0.jpg: " in captured.out
    assert "2 of the images cannot be decoded" in captured.err
    assert "--data.skip_unreadable 2" in captured.err


def test_deep_grey_images_are_named(images, capsys):
    folder = images / "train" / "cat"
    for name, most in (("whole", 65_535), ("dark", 4095)):
        Image.fromarray(np.tile(np.linspace(0, most, 8), (8, 1)).astype(np.uint16)).save(folder / f"{name}.png")
    assert main(["data", "check", str(images / "train")]) == 0
    text = capsys.readouterr().out
    assert "cat/whole.png: grey values 0 to 65,535 of 65,535\n" in text
    assert "cat/dark.png: grey values 0 to 4,095 of 65,535, so that it comes out dark" in text
    assert "train: 14 images of 2 classes" in text  # the folder's name
    assert "2 grey images of more than 8 bits" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimize", "nowhere", "shards"], "nowhere: there is no such folder"),
        (["optimize", "images", "images"], "there already and not empty"),
        (["optimize", "images", "shards", "--shard_mb", "0"], "`shard_mb` (=0.0) must be more than 0"),
        (["check", "images", "--workers", "-1"], "`workers` (=-1) must be more than 0"),
    ],
)
def test_mistakes_are_told_in_one_message(words, message, images, monkeypatch, capsys):
    monkeypatch.chdir(images.parent)
    assert main(["data", *words]) == (1 if "there already" in message else 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (images.parent / "shards").exists()


def test_help_needs_no_litdata(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert main(["data", "optimize", "--help"]) == 0
    assert "--shard_mb" in capsys.readouterr().out


def test_a_missing_litdata_is_told_with_the_command_that_installs_it(images, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "litdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert main(["data", "optimize", str(images), str(tmp_path / "shards")]) == 1
    assert "pip install 'acnet-pl[streaming]'" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_a_class_without_photos_is_named(images, capsys):
    (images / "train" / "empty").mkdir()
    assert main(["data", "check", str(images / "train")]) == 0
    assert "no image of 'empty'" in capsys.readouterr().out
