from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from acnet_pl.data import DataError, ImageNetDataModule
from acnet_pl.data.imagenet import color_shift, random_resized_box
from acnet_pl.data.random_words import random_words


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four training and two validation images, of sizes as cameras make them."""
    folder = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(("n01", "n02", "n03")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                size = (40 + 10 * index, 60 - 5 * index, 3)
                image = rng.integers(0, 80, size) + 80 * number
                Image.fromarray(image.astype(np.uint8)).save(folder / split / name / f"{index}.JPEG")
    return folder


def module(root: Path, **options: int | float) -> ImageNetDataModule:
    options = {"image_size": 32, "resize": 36, "batch_size": 4, "num_workers": 0, **options}
    data = ImageNetDataModule(root, seed=1, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_it_says_what_it_has_before_it_is_set_up(root: Path) -> None:
    data = ImageNetDataModule(root, image_size=64, resize=72)
    assert (data.num_classes, data.class_names, data.image_shape) == (3, ["n01", "n02", "n03"], (3, 64, 64))
    assert ImageNetDataModule(root / "nowhere").num_classes == 1000


def test_an_epoch_is_every_image_once_and_the_next_is_another(root: Path) -> None:
    data = module(root)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append([torch.cat(parts) for parts in zip(*loader, strict=True)])
    (first, labels, indices), again, later = epochs
    assert first.shape == (12, 32, 32, 3)
    assert first.dtype == torch.uint8
    assert sorted(indices.tolist()) == list(range(12))
    assert torch.equal(labels, indices // 4)
    assert torch.equal(first, again[0])
    assert not torch.equal(indices, later[2])
    # The same image is cut elsewhere in another epoch.
    assert not torch.equal(first[indices.argsort()], later[0][later[2].argsort()])


def test_evaluation_is_a_centre_crop_as_torchvision_makes_it(root: Path) -> None:
    reference = v2.Compose([v2.Resize(36), v2.CenterCrop(32), v2.PILToTensor()])
    data = module(root)
    images, labels, indices = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert indices.tolist() == list(range(6))
    for image, path in zip(images, sorted(root.glob("val/*/*.JPEG")), strict=True):
        expected = reference(Image.open(path).convert("RGB")).permute(1, 2, 0)
        assert (image.int() - expected.int()).abs().max() <= 2  # Pillow and torch round their resizing differently


def test_boxes_are_distributed_as_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.tensor([random_resized_box(50, 80, 0.08, generator) for _ in range(3000)], dtype=torch.float64)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(32, antialias=True)
    image = torch.zeros(3, 50, 80)
    drawn = [transform.make_params([image]) for _ in range(3000)]
    theirs = torch.tensor([[one[key] for key in ("top", "left", "height", "width")] for one in drawn]).double()
    spread = theirs.std(0) * (2 / 3000) ** 0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * spread).all()
    assert (ours.std(0) / theirs.std(0) - 1).abs().max() < 0.06
    assert (ours[:, 0] + ours[:, 2]).max() <= 50
    assert (ours[:, 1] + ours[:, 3]).max() <= 80


def test_a_colour_shift_is_a_function_of_the_sample_and_bounded() -> None:
    images = torch.full((6, 4, 4, 3), 100, dtype=torch.uint8)
    words = random_words(0, 0, torch.arange(6))
    shifted = color_shift(images, words, 0.4)
    assert torch.equal(shifted[3:], color_shift(images[3:], words[3:], 0.4))
    # A grey image has neither contrast nor saturation: its brightness alone changes.
    assert (shifted.float().amax((1, 2, 3)) - shifted.float().amin((1, 2, 3))).max() == 0
    assert 60 <= int(shifted.min()) < int(shifted.max()) <= 140
    assert torch.equal(color_shift(images, words, 0.0), images)


def test_folders_that_are_no_data_set_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train is missing"):
        ImageNetDataModule(tmp_path).setup()
    for name in ("train/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="only one of"):
        ImageNetDataModule(tmp_path).setup()


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be decoded"):
        next(iter(module(tmp_path).val_dataloader()))


@pytest.mark.parametrize("options", [{"resize": 16}, {"min_scale": 0.0}, {"color": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, float], root: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        module(root, **options)
