from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torchvision.transforms import v2

from acnet_pl import ACBConv, ImageClassifier
from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import EquivalenceCheck, PredictionWriter, RotationRobustness
from acnet_pl.data import DataError, ImageNetDataModule
from acnet_pl.data.color import color_shift
from acnet_pl.data.encoded_images import EncodedBatch
from acnet_pl.data.random_words import random_words


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_image_tree: Callable[..., Path]) -> Path:
    """Three classes of four training and two validation images. Do not write into it."""
    return write_image_tree(tmp_path_factory.mktemp("imagenet") / "images")


def module(root: Path, **options: Any) -> ImageNetDataModule:
    options = {"image_size": 32, "resize": 36, "batch_size": 4, "num_workers": 0, **options}
    data = ImageNetDataModule(root, seed=1, **options)
    data.setup("fit")
    return data


def test_it_says_what_it_has_before_it_is_set_up(root: Path) -> None:
    data = ImageNetDataModule(root, image_size=64, resize=72)
    assert (data.num_classes, data.class_names, data.image_shape) == (3, ["n00", "n01", "n02"], (3, 64, 64))
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


@pytest.mark.gpu
def test_a_gpu_shifts_colours_as_the_cpu_does() -> None:
    images = torch.randint(0, 256, (16, 20, 20, 3), dtype=torch.uint8)
    words = random_words(3, 1, torch.arange(16))
    on_gpu = color_shift(images.cuda(), words.cuda(), 0.4)
    assert on_gpu.device.type == "cuda"
    # Sums in another order round another way.
    assert (on_gpu.cpu().int() - color_shift(images, words, 0.4).int()).abs().max() <= 1


def test_a_colour_shift_is_a_function_of_the_sample_and_bounded() -> None:
    images = torch.full((6, 4, 4, 3), 100, dtype=torch.uint8)
    words = random_words(0, 0, torch.arange(6))
    shifted = color_shift(images, words, 0.4)
    assert torch.equal(shifted[3:], color_shift(images[3:], words[3:], 0.4))
    # A grey image has neither contrast nor saturation: its brightness alone changes.
    assert (shifted.float().amax((1, 2, 3)) - shifted.float().amin((1, 2, 3))).max() == 0
    assert 60 <= int(shifted.min()) < int(shifted.max()) <= 140
    assert torch.equal(color_shift(images, words, 0.0), images)


class Recorder(pl.LightningModule):
    """Remembers what it was trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        self.seen: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        self.seen.append(batch[0].clone())
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.validated.append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: ImageNetDataModule, tmp_path: Path, ckpt: Path | None = None, **options: Any) -> tuple[Recorder, Any]:
    model = Recorder()
    trainer = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **{"accelerator": "cpu", "max_epochs": 2, **options},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
        trainer.fit(model, data, ckpt_path=ckpt)
    return model, trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_in_the_middle_of_an_epoch_goes_on_with_the_very_next_image(
    workers: int, root: Path, tmp_path: Path
) -> None:
    """Also with worker processes, which are ahead of what was trained on."""

    def data() -> ImageNetDataModule:
        return ImageNetDataModule(root, 32, 36, batch_size=2, num_workers=workers, seed=1)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 8:  # 6 steps in an epoch
                trainer.save_checkpoint(tmp_path / "step-8.ckpt")

    whole, _ = fit(data(), tmp_path, callbacks=[Save()])
    rest, _ = fit(data(), tmp_path, tmp_path / "step-8.ckpt")
    assert [len(whole.seen), len(rest.seen)] == [12, 4]
    assert torch.equal(torch.cat(whole.seen[8:]), torch.cat(rest.seen))


def test_decoding_on_the_training_device_gives_the_same_images(root: Path, tmp_path: Path) -> None:
    """The code that decodes by nvJPEG on a GPU, with a CPU as the training device."""
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 0, "seed": 1}
    by_workers, _ = fit(ImageNetDataModule(root, 32, 36, **options), tmp_path)
    on_device, _ = fit(ImageNetDataModule(root, 32, 36, decode="gpu", **options), tmp_path)
    assert torch.equal(torch.cat(by_workers.seen), torch.cat(on_device.seen))
    assert torch.equal(torch.cat(by_workers.validated), torch.cat(on_device.validated))


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_decoding_on_the_training_device_gives_nearly_the_images_of_the_workers(
    accelerator: str, root: Path, tmp_path: Path
) -> None:
    seen, validated = [], []
    for where in ("cpu", "gpu"):
        data = ImageNetDataModule(root, 32, 36, batch_size=4, num_workers=0, seed=1, decode=where)  # type: ignore[arg-type]
        model, _ = fit(data, tmp_path, accelerator=accelerator, devices=1)
        assert {images.device.type for images in model.seen} == {"cuda" if accelerator == "gpu" else "cpu"}
        seen.append(torch.cat(model.seen))
        validated.append(torch.cat(model.validated))
    # In standard deviations: nvJPEG upsamples chroma by repetition, and colour shifts are of these pixels.
    assert (seen[0] - seen[1]).abs().mean() < 0.05
    assert (validated[0] - validated[1]).abs().mean() < 0.05


def test_half_of_the_training_images_are_flipped(root: Path, tmp_path: Path) -> None:
    data = ImageNetDataModule(root, 32, 32, batch_size=12, num_workers=0, seed=1, min_scale=1.0, color=0.0)
    model, _ = fit(data, tmp_path, max_epochs=10)
    raw = []
    for epoch in range(10):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        raw += [data.normalize(images) for images, _, _ in loader]
    same = [torch.equal(a, b) for a, b in zip(torch.cat(model.seen), torch.cat(raw), strict=True)]
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(torch.cat(model.seen), torch.cat(raw), strict=True)]
    assert all(a != b for a, b in zip(same, flipped, strict=True))
    assert 40 <= sum(flipped) <= 80


@pytest.fixture
def damaged(tmp_path: Path, write_image_tree: Callable[..., Path]) -> Path:
    """Two training images and one validation image cannot be decoded."""
    folder = write_image_tree(tmp_path / "damaged")
    for name in ("train/n00/001.JPEG", "train/n02/003.JPEG", "val/n01/000.JPEG"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    return folder


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("decode", ["cpu", "gpu"])
def test_an_unreadable_file_is_named_in_one_message(workers: int, decode: str, damaged: Path, tmp_path: Path) -> None:
    data = ImageNetDataModule(damaged, 32, 36, num_workers=workers, seed=1, batch_size=4, decode=decode)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"val/n01/000\.JPEG cannot be decoded .*mend or remove it.*`skip_unreadable`"
    ) as error:
        fit(data, tmp_path)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(("workers", "decode"), [(0, "cpu"), (2, "cpu"), (0, "gpu")])
def test_unreadable_files_are_replaced_in_training_and_left_out_of_evaluation(
    workers: int, decode: str, damaged: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_workers": workers, "batch_size": 4, "decode": decode, "skip_unreadable": 2}
    data = ImageNetDataModule(damaged, 32, 36, seed=1, **options)
    message = r"cannot be decoded and is skipped \(\d of at most 2 in each split\)"
    with pytest.warns(UserWarning, match=message) as warned:
        model, _ = fit(data, tmp_path, max_epochs=1, num_sanity_val_steps=0)
    assert [len(torch.cat(model.seen)), len(torch.cat(model.validated))] == [12, 5]
    names = ["train/n00/001.JPEG", "train/n02/003.JPEG", "val/n01/000.JPEG"]
    assert data.unreadable == [str(damaged / name) for name in names]
    assert sum("cannot be decoded" in str(warning.message) for warning in warned) == 3
    # The next readable image takes the place, with its label; the last one's next is the first.
    loader = ImageNetDataModule(damaged, 32, 36, num_workers=0, seed=1, batch_size=4, skip_unreadable=2)
    loader.setup("fit")
    _, labels, indices = loader.train_set.__getitems__([1, 11, 4])  # type: ignore[misc]
    assert (labels.tolist(), indices.tolist()) == ([0, 0, 1], [1, 11, 4])


@pytest.mark.parametrize("decode", ["cpu", "gpu"])
@pytest.mark.filterwarnings("ignore:.*is skipped", "ignore:.*many workers")
def test_predictions_and_figures_are_of_the_images_that_can_be_read(decode: str, damaged: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"decode": decode, "skip_unreadable": 2, "num_workers": 0}
    data = ImageNetDataModule(damaged, 32, 36, seed=1, batch_size=4, eval_batch_size=1, **options)  # one a batch
    torch.manual_seed(0)
    model = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv(), num_classes=3)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[PredictionWriter(), EquivalenceCheck(), RotationRobustness()],
    )  # fmt: skip
    trainer.predict(model, datamodule=data)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == [0, 1, 3, 4, 5]  # not 2, val/n01/000.JPEG
    (figures,) = trainer.test(model, datamodule=data, verbose=False)
    right = [int(row["predicted"]) == int(row["index"]) // 2 for row in rows]
    assert figures["test/top1"] == pytest.approx(sum(right) / 5)
    assert figures["rotation/original/top1"] == pytest.approx(sum(right) / 5)
    (figures,) = trainer.validate(model, datamodule=data, verbose=False)
    assert figures["equivalence/top1_agreement"] == 1
    whole = ImageNetDataModule(damaged, 32, 36, seed=1, batch_size=4, eval_batch_size=6, **options)
    assert trainer.validate(model, datamodule=whole, verbose=False)[0]["val/loss"] == pytest.approx(figures["val/loss"])


def test_encoded_images_come_from_a_worker_as_one_tensor(root: Path) -> None:
    batch = next(iter(module(root, decode="gpu", eval_batch_size=6).val_dataloader()))
    assert isinstance(batch, EncodedBatch)
    assert batch.contents.ndim == 1
    assert [len(part) for part in batch.contents.split(batch.sizes)] == [
        path.stat().st_size for path in sorted(root.glob("val/*/*.JPEG"))
    ]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_decoding_processes_outlive_a_signal_to_the_whole_group(
    root: Path, tmp_path: Path, process: Callable[..., Any]
) -> None:
    # As torchrun ends its processes; the training process goes on to its checkpoint and needs batches for that.
    script = f"""
import os, signal
from acnet_pl.data import ImageNetDataModule
os.setsid()
data = ImageNetDataModule({str(root)!r}, 32, 36, batch_size=2, num_workers=1, seed=0)
data.setup("fit")
signal.signal(signal.SIGTERM, lambda *_: None)
batches = iter(data.train_dataloader())
next(batches)
os.killpg(0, signal.SIGTERM)
print(1 + len(list(batches)))
"""
    done = process(["-c", script], tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "6"), done.stderr


@pytest.mark.filterwarnings("ignore:.*is skipped")
def test_more_unreadable_files_than_allowed_are_an_error(damaged: Path, tmp_path: Path) -> None:
    data = ImageNetDataModule(damaged, 32, 36, num_workers=0, seed=1, batch_size=4, skip_unreadable=1)
    with pytest.raises(DataError, match=r"more than `skip_unreadable` \(=1\)"):
        fit(data, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"resize": 16},
        {"min_scale": 0.0},
        {"color": 1.5},
        {"decode": "tpu"},
        {"skip_unreadable": -1},
        {"batch_size": 0},
        {"num_workers": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], root: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        module(root, **options)


def test_a_batch_that_cannot_be_shared_or_filled_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"`batch_size` \(=13\) must be .* at most .*\(=12\)"):
        module(root, batch_size=13).train_dataloader()
    with pytest.raises(RuntimeError, match="not listed yet"):
        ImageNetDataModule(root).train_dataloader()
