"""The folder layout against torchvision's ImageFolder, and what is wrong with a folder."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from acnet_pl.data import CIFARDataModule, DataError


def load(root: Path, **options: Any) -> CIFARDataModule:
    data = CIFARDataModule(root=root, **{"val_size": 0, **options})
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("layout", ["auto", "folder"])
def test_reads_what_torchvision_reads(layout: str, cifar10_folders: Path) -> None:
    data = load(cifar10_folders, layout=layout)
    for part, split in ((data.train_set, "train"), (data.test_set, "test")):
        reference = torchvision.datasets.ImageFolder(cifar10_folders / split)
        assert data.class_names == reference.classes
        assert part.labels.tolist() == reference.targets
        assert np.array_equal(part.images.numpy(), np.stack([np.asarray(image) for image, _ in reference]))


def test_class_names_are_the_folders(cifar10_folders: Path) -> None:
    for split in ("train", "test"):
        (cifar10_folders / split / "airplane").rename(cifar10_folders / split / "zeppelin")
    assert load(cifar10_folders).class_names[-1] == "zeppelin"


def test_python_batches_come_first(cifar10_folders: Path, cifar10_root: Path) -> None:
    shutil.copytree(cifar10_root, cifar10_folders, dirs_exist_ok=True)
    assert len(load(cifar10_folders, verify=False).train_set) == 200
    assert len(load(cifar10_folders, layout="folder").train_set) == 60


def test_grey_images_and_palettes_become_rgb(cifar10_folders: Path) -> None:
    first = min((cifar10_folders / "test" / "airplane").iterdir())
    first.unlink()
    grey = np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    Image.fromarray(grey).convert("P").save(first.with_suffix(".png"))
    image = load(cifar10_folders).test_set.images[0].numpy()
    assert np.array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_hidden_files_are_passed_over(cifar10_folders: Path) -> None:
    (cifar10_folders / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (cifar10_folders / "train" / ".cache").mkdir()
    assert len(load(cifar10_folders).train_set) == 60


def test_wrong_number_of_classes_is_named(cifar10_folders: Path) -> None:
    with pytest.raises(DataError, match="has 10 class folders, the data set has 100 classes"):
        load(cifar10_folders, dataset="cifar100")


def test_classes_of_the_splits_must_agree(cifar10_folders: Path) -> None:
    (cifar10_folders / "test" / "cat").rename(cifar10_folders / "test" / "lion")
    with pytest.raises(DataError, match="only one has cat, lion"):
        load(cifar10_folders)


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split_is_named(split: str, cifar10_folders: Path) -> None:
    shutil.rmtree(cifar10_folders / split)
    with pytest.raises(DataError, match=rf"{split} is not a folder. Set `root`"):
        load(cifar10_folders)


def spoil(folder: Path, fault: str) -> None:
    if fault == "empty class":
        shutil.rmtree(folder)
        folder.mkdir()
    elif fault == "not an image":
        (folder / "labels.txt").write_text("cat")
    elif fault == "unreadable":
        (folder / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    elif fault == "truncated":
        path = folder / "0.png"
        Image.effect_noise((32, 32), 50).save(path)
        path.write_bytes(path.read_bytes()[:-200])
    elif fault == "other format":
        Image.new("RGB", (32, 32)).save(folder / "0.png", format="GIF")
    elif fault == "other size":
        Image.new("RGB", (32, 30)).save(folder / "0.png")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("empty class", "cat holds no image; put the images of the class there"),
        ("not an image", r"labels.txt is not an image \(.jpg, .jpeg, .png\)"),
        ("unreadable", "0.png cannot be read as an image"),
        ("truncated", "0.png cannot be read as an image"),
        ("other format", "0.png cannot be read as an image"),
        ("other size", r"0.png has 30×32 pixels \(height×width\), expected 32×32"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_faults_are_named(fault: str, message: str, split: str, cifar10_folders: Path) -> None:
    spoil(cifar10_folders / split / "cat", fault)
    with pytest.raises(DataError, match=message):
        load(cifar10_folders)
