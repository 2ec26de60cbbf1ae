from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from acnet_pl.data.class_folders import ClassFolders
from acnet_pl.data.errors import DataError


@pytest.fixture
def root(tmp_path: Path, write_image_tree: Callable[..., Path]) -> Path:
    return write_image_tree(tmp_path / "images")


def test_images_are_numbered_as_image_folder_numbers_them(root: Path) -> None:
    (root / "train" / "n01" / "Ünusual.JPG").write_bytes(b"no image")
    (root / "train" / "n01" / "notes.txt").write_text("left out")
    (root / "train" / "n01" / ".hidden.jpg").write_bytes(b"left out")
    split = ClassFolders(root).split("train")
    expected = [sample for sample in ImageFolder(str(root / "train")).samples if ".hidden" not in sample[0]]
    assert [(str(split.path(n)), int(split.labels[n])) for n in range(len(split))] == expected
    assert len(split) == 13
    content, label = split.read(4)
    assert (bytes(content.tolist()), label) == (split.path(4).read_bytes(), 1)


def test_what_is_missing_is_named(root: Path) -> None:
    for name in ("train", "val"):
        with pytest.raises(DataError, match=r"nowhere/train is missing; `root` .* must hold train/<class>/\*"):
            ClassFolders(root / "nowhere").split(name)
    (root / "val").rename(root / "validation")
    with pytest.raises(DataError, match=r"val is missing"):
        ClassFolders(root).split("train")


def test_classes_that_differ_are_named_with_their_side(root: Path) -> None:
    (root / "val" / "n02").rename(root / "val" / "zebra")
    with pytest.raises(DataError, match=r"'n02' is in train/ alone and 1 other"):
        ClassFolders(root).split("train")
    (root / "train" / "n02").rename(root / "train" / "zebra")
    (root / "val" / "extra").mkdir()
    with pytest.raises(DataError, match=r"'extra' is in val/ alone$"):
        ClassFolders(root).split("train")


def test_an_empty_class_is_named(root: Path) -> None:
    for file in (root / "val" / "n01").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"val/n01 holds no image .*1 of 3 classes"):
        ClassFolders(root).split("val")
    assert len(ClassFolders(root).split("train")) == 12


def test_a_class_folder_that_is_a_link_to_another_is_named(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "n000").symlink_to("n01")
    with pytest.raises(DataError, match=r"train/n000, of class 'n000', leads to .*/train/n01, where"):
        ClassFolders(root).split("train")


def test_a_root_without_classes_is_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="no class folder"):
        ClassFolders(tmp_path).split("train")


def test_a_file_that_vanished_has_no_content(root: Path) -> None:
    split = ClassFolders(root).split("train")
    split.path(5).unlink()
    content, label = split.read(5)
    assert (content.dtype, len(content), label) == (torch.uint8, 0, 1)
