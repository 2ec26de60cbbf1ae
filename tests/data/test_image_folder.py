"""One's own photos: layouts, the split, what is wrong with a folder, and how photos are prepared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from acnet_pl.data import DataError, ImageFolderDataModule
from acnet_pl.data.class_folders import FileSplit
from acnet_pl.data.fingerprint import fingerprint
from acnet_pl.data.photo_folders import PhotoFolders, photos_below


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten cats, five dogs and two owls; each photo has a colour of its own."""
    number = 0
    for name, count in (("cat", 10), ("dog", 5), ("owl", 2)):
        for index in range(count):
            number += 1
            write(tmp_path / "photos" / name / f"{index}.png", 10 * number)
    return tmp_path / "photos"


def write(path: Path, value: int = 100, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24), (value, 0, 0)).save(path, **options)


def module(root: Path, stage: str = "fit", **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(root, **{"image_size": 16, "num_workers": 0, "seed": 0, **options})
    data.setup(stage)
    return data


def counts(images: Any) -> list[int]:
    """How many photos of each class there are."""
    found: list[int] = images.split.labels.bincount().tolist()
    return found


def paths(images: Any) -> list[str]:
    return names(images.split)


def names(found: FileSplit) -> list[str]:
    return [found.path(n).relative_to(found.folder).as_posix() for n in range(len(found))]


def test_the_split_takes_a_share_of_each_class_and_nothing_twice(root: Path) -> None:
    data = module(root)
    assert data.class_names == ["cat", "dog", "owl"]
    assert [sum(each) for each in zip(counts(data.train_set), counts(data.val_set), strict=True)] == [10, 5, 2]
    assert min(counts(data.train_set) + counts(data.val_set)) >= 1
    train, val = paths(data.train_set), paths(data.val_set)
    assert sorted(train + val) == sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert val == paths(module(root, seed=7).val_set), "the seed of a run chooses no other photos"
    assert any(val != paths(module(root, split_seed=n).val_set) for n in (1, 2))


def test_a_fingerprint_tells_folders_with_other_classes_or_counts_apart(root: Path) -> None:
    first = fingerprint(module(root, "test"))
    assert first == fingerprint(module(root, "test", seed=7))
    (root / "owl").rename(root / "swan")
    assert fingerprint(module(root, "test")) != first


def test_photos_that_are_added_move_no_photo_that_was_trained_on_into_validation(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    trained: set[str] = set()
    for n in range(40):  # names are all that a split needs
        for name in ("cat", "dog"):
            (tmp_path / name / f"{n}.png").touch()
        if n >= 3:
            folders = PhotoFolders(tmp_path, val_size=0.3)
            trained |= {*names(folders.split("train"))}
            val = folders.split("val")
            assert val.labels.unique().tolist() == [0, 1]
            assert not trained & {*names(val)}


def test_the_share_that_validates_is_that_of_many_photos_by_any_seed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(300):
            (tmp_path / name / f"{n}.png").touch()
    chosen = [names(PhotoFolders(tmp_path, 0.2, seed).split("val")) for seed in (0, 1)]
    for each in chosen:
        for name in ("cat", "dog"):  # 60 ± 7 of 300
            assert 39 <= sum(file.startswith(name) for file in each) <= 81
    assert {*chosen[0]} != {*chosen[1]}
    cats, dogs = ({f[4:] for f in chosen[0] if f.startswith(name)} for name in ("cat", "dog"))
    assert cats != dogs, "the same names in two classes are decided apart"


def test_a_class_of_which_all_would_validate_trains_on_one_with_a_warning(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for n in range(2):
            write(tmp_path / name / f"{n}.png")
    few = r"2 classes have so few photos .* 'cat/\d\.png', 'dog/\d\.png' are used .* may validate once you add photos"
    with pytest.warns(UserWarning, match=few) as told:
        train = PhotoFolders(tmp_path, 0.999).split("train")
    assert len(told) == 1, "however many classes are so"
    assert train.labels.tolist() == [0, 1]
    assert len(PhotoFolders(tmp_path, 0.999).split("val")) == 2
    assert len(PhotoFolders(tmp_path, 0.001).split("val")) == 2, "and at least one validates"


def test_a_class_of_which_none_validates_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in (("cat", 4), ("dog", 1)):
        for n in range(count):
            write(tmp_path / name / f"{n}.png")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "dog" / "0.png").unlink()
    with pytest.warns(UserWarning, match="no photo of class 'dog' validates, so the accuracies say nothing of it"):
        data = module(tmp_path, "fit", val_size=0.2)
    assert counts(data.val_set)[1:] == []
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded \(it is empty or cannot be opened\)"):
        next(iter(data.train_dataloader()))


def test_a_pipe_is_no_photo(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere.png")  # which is an error when it is read
    assert photos_below(tmp_path) == (["a.png", "c.png"], {"pipe or device": 1})


def test_all_photos_can_be_evaluated(root: Path) -> None:
    data = module(root, "test", val_size=1)
    assert len(data.test_set) == 17
    with pytest.raises(DataError, match=r"leaves no photos for train \(val_size 1\)"):
        data.setup("fit")


def test_splits_are_taken_as_they_are(root: Path) -> None:
    for split, kind in (("train", "training"), ("val", "valid"), ("test", "test")):
        for name in ("cat", "owl"):
            write(root.parent / "parts" / kind / name / f"{split}.png")
    data = module(root.parent / "parts", None)  # type: ignore[arg-type]
    found = [paths(images) for images in (data.train_set, data.val_set, data.test_set)]
    assert found == [[f"cat/{split}.png", f"owl/{split}.png"] for split in ("train", "val", "test")]
    assert not data.validates_on_test_images


def test_without_a_folder_val_training_photos_validate_and_test_stays_apart(root: Path) -> None:
    write(root.parent / "parts" / "test" / "cat" / "t.png")
    os.rename(root, root.parent / "parts" / "train")  # noqa: PTH104
    data = module(root.parent / "parts", None)  # type: ignore[arg-type]
    assert (len(data.train_set) + len(data.val_set), paths(data.test_set)) == (17, ["cat/t.png"])


def test_photos_lie_at_any_depth_also_behind_links(root: Path) -> None:
    write(root / "owl" / "2024" / "night" / "a.JPG", format="JPEG")
    (root / "owl" / "2024" / "again").symlink_to(root / "owl")  # in a circle
    for number in range(5):
        write(root.parent / "pool" / f"{number}.png")
    (root / "hen").symlink_to(root.parent / "pool")
    data = module(root)
    assert data.num_classes == 4
    assert "owl/2024/night/a.JPG" in paths(data.train_set) + paths(data.val_set)
    assert len(data.train_set) + len(data.val_set) == 23


@pytest.mark.parametrize(
    ("link", "target", "other"),
    [
        ("dog/loop", "..", "cat"),
        ("dog/far/loop", "../../../..", "cat"),
        ("dog/mine", "../owl", "owl"),
        ("dog/far/mine", "../../owl/2024", "owl"),
        ("hen", "dog", "dog"),
        ("bee", "dog", "dog"),
    ],
)
def test_a_link_from_one_class_to_another_is_an_error(link: str, target: str, other: str, root: Path) -> None:
    write(root / "owl" / "2024" / "a.png")
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(target)
    own = link.partition("/")[0]
    said = rf"{root}/{link}, of class '{own}', leads to .*, where photos of class '{other}' are: .* remove the link$"
    with pytest.raises(DataError, match=said):
        module(root)
    (root / link).unlink()
    (root / link).symlink_to(root / own)
    assert link == own or len(module(root).train_set)


def test_photos_of_the_folder_have_the_path_without_links(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.png")
    write(tmp_path / ".hidden" / "2.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "more").symlink_to(tmp_path / ".hidden")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert photos_below(tmp_path)[0] == ["a/more/2.png", "b/1.png"]


def test_a_class_called_train_is_no_split(root: Path) -> None:
    for weather in ("fog", "ice", "rain", "snow"):
        write(root / "train" / f"{weather}.png")
    assert module(root).class_names == ["cat", "dog", "owl", "train"]
    write(root / "train" / "old" / "steam.png")
    with pytest.raises(
        DataError, match=r"mixes folders of splits \('train'\) with class folders \('cat', 'dog', 'owl'\)"
    ):
        module(root)


def test_other_files_are_counted_in_a_warning(root: Path) -> None:
    for name in ("a.heic", "b.heic", "c.gif", ".DS_Store", "Thumbs.db"):
        (root / "cat" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"3 other files \(2 .heic, 1 .gif\) are ignored"):
        module(root)


def test_photos_beside_the_class_folders_are_counted_in_a_warning(root: Path) -> None:
    write(root / "loose.png")
    with pytest.warns(UserWarning, match="ignored 1 photos outside of class folders"):
        module(root)


def nothing(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def one_class(root: Path) -> None:
    (root.parent / "inner").mkdir()
    root.rename(root.parent / "inner" / "animals")
    (root.parent / "inner").rename(root)


def heic_alone(root: Path) -> None:
    for path in (root / "owl").iterdir():
        path.rename(path.with_suffix(".heic"))


def unknown_in_val(root: Path) -> None:
    root.rename(root.parent / "train")
    root.mkdir()
    (root.parent / "train").rename(root / "train")
    write(root / "val" / "cow" / "0.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nothing, "photos has no folders; photos belong in one folder for each class"),
        (
            one_class,
            r"has only one class folder, 'animals'.* 'cat', 'dog', 'owl' look like classes: give .*photos/animals",
        ),
        (heic_alone, r"owl holds no photo but 2 other files \(2 .heic\)"),
        (unknown_in_val, r"val has class folders that are not in .*train: 'cow'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_folder_is_explained(spoil: Callable[[Path], None], message: str, root: Path) -> None:
    spoil(root)
    with pytest.raises(DataError, match=message):
        module(root)


def test_a_missing_folder_and_one_photo_a_class_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere\\) does not exist; give a folder with one folder of photos"):
        module(tmp_path / "nowhere")
    for name in ("a", "b"):
        write(tmp_path / name / "0.png")
    with pytest.raises(DataError, match=r"leaves no photos for val .* a class needs two photos"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"val_size": 1.5}, r"`val_size` \(=1.5\)"), ({"classes": ["cat", "cat"]}, "must be different names")],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(root, **options)


def test_classes_number_the_folders_by_name(root: Path) -> None:
    data = module(root, "test", val_size=1, classes=["owl", "lynx", "dog", "cat"])
    assert data.num_classes == 4
    assert counts(data.test_set) == [2, 0, 5, 10]
    with pytest.raises(DataError, match="not in `classes`: 'cat', 'dog'; the classes are 'owl', 'lynx'"):
        module(root, classes=["owl", "lynx"])


def test_a_batch_is_at_most_all_photos(root: Path) -> None:
    data = module(root, batch_size=500)
    assert data.batch_size == len(data.train_set) < 17
    (batch,) = data.train_dataloader()
    assert sorted(batch[2].tolist()) == list(range(data.batch_size))


def test_evaluation_cuts_the_centre_at_256_of_224(root: Path, natural_image: Callable[..., Any]) -> None:
    Image.fromarray(natural_image(0, 90, 120)).save(root / "cat" / "0.png")
    data = module(root, "test", image_size=56, val_size=1)
    assert data.resize == 64
    reference = v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.PILToTensor()])
    image = next(iter(data.test_dataloader()))[0][paths(data.test_set).index("cat/0.png")]
    expected = reference(Image.open(root / "cat" / "0.png")).permute(1, 2, 0)
    assert (image.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("format", ["jpg", "png"])
def test_photos_are_turned_upright(format: str, tmp_path: Path, natural_image: Callable[..., Any]) -> None:
    pixels = natural_image(0, 32, 32)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{orientation}.{format}", exif=exif)
    for upright in (True, False):
        data = module(tmp_path, "test", image_size=32, resize=32, val_size=1, exif=upright)
        images = next(iter(data.test_dataloader()))[0]
        for image, path in zip(images, paths(data.test_set), strict=True):
            with Image.open(tmp_path / path) as stored:
                expected = np.asarray(ImageOps.exif_transpose(stored) if upright else stored)
            assert torch.equal(image, torch.from_numpy(expected.copy())), path
