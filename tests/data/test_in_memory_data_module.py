"""InMemoryDataModule under the Trainer: what reaches the model, in which order, also after a resume."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, Callback
from torch import Tensor
from torch.utils.data import DistributedSampler

from acnet_pl.data import InMemoryDataModule, InMemoryImages
from acnet_pl.data.augment import augment
from acnet_pl.data.fingerprint import fingerprint

TRAIN, VAL, TEST = 40, 11, 13


class NumberedImages(InMemoryDataModule):
    """The label of an image is its position."""

    num_classes = TRAIN
    image_shape = (3, 8, 8)
    mean = (0.5, 0.4, 0.3)
    std = (0.2, 0.3, 0.4)

    def __init__(self, batch_size: int = 8, seed: int = 1, drop_last: bool = True, pad: int = 2) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=4,
            seed=seed,
            pad=pad,
            flip=True,
            drop_last=drop_last,
            pin_memory=True,
        )
        self.class_names = [str(i) for i in range(TRAIN)]
        self.loads: list[str] = []

    def load_training_sets(self) -> tuple[InMemoryImages, InMemoryImages]:
        self.loads.append("training")
        return self._draw(TRAIN, 0), self._draw(VAL, 1)

    def load_test_set(self) -> InMemoryImages:
        self.loads.append("test")
        return self._draw(TEST, 2)

    def _draw(self, n: int, seed: int) -> InMemoryImages:
        generator = torch.Generator().manual_seed(seed)
        return InMemoryImages(
            torch.randint(0, 256, (n, 8, 8, 3), generator=generator, dtype=torch.uint8), torch.arange(n)
        )


class Recorder(pl.LightningModule):
    """Records the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen["train"].append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen["test"].append(batch)

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen["predict"].append(batch)
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def labels(self, stage: str) -> list[list[int]]:
        return [labels.tolist() for _, labels in self.seen[stage]]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return [label for batch in batches for label in batch]


def quiet_trainer(**options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**defaults, **options})


def pretend(data: InMemoryDataModule, world_size: int, rank: int) -> None:
    """Have the data module believe that it is one of several processes."""

    class Process:
        training = False

    process: Any = Process()
    process.world_size, process.global_rank = world_size, rank
    data.trainer = process


def epoch_order(epoch: int, **options: Any) -> list[list[int]]:
    data = NumberedImages(**options)
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    loader.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels, _ in loader]


def test_model_gets_every_epoch_in_its_order_augmented_by_its_draw() -> None:
    data, model = NumberedImages(), Recorder()
    quiet_trainer(max_epochs=3).fit(model, data)
    assert model.labels("train") == [batch for epoch in range(3) for batch in epoch_order(epoch)]
    assert len({str(epoch_order(epoch)) for epoch in range(3)}) == 3
    for step, (images, labels) in enumerate(model.seen["train"]):
        stored = data.train_set.images[labels]
        expected = augment(stored, labels, seed=1, epoch=step // 5, pad=2, flip=True)
        assert torch.equal(images, data.normalize(expected))
        assert not torch.equal(images, data.normalize(stored))
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_normalises_only_and_keeps_the_order() -> None:
    data, model, trainer = NumberedImages(), Recorder(), quiet_trainer(max_epochs=1, num_sanity_val_steps=2)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    assert model.labels("val")[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # the sanity check
    assert flat(model.labels("val")[2:]) == list(range(VAL))
    for stage, dataset in (("val", data.val_set), ("test", data.test_set), ("predict", data.test_set)):
        for images, labels in model.seen[stage]:
            assert torch.equal(images, data.normalize(dataset.images[labels]))
    assert flat(model.labels("test")) == flat(model.labels("predict")) == list(range(TEST))


def test_each_stage_reads_what_it_needs_once() -> None:
    data, model, trainer = NumberedImages(), Recorder(), quiet_trainer(max_epochs=1)
    with pytest.raises(RuntimeError, match=r"call prepare_data\(\) and setup\('fit'\) first"):
        data.train_dataloader()
    trainer.test(model, data, verbose=False)
    assert data.loads == ["test"]
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    trainer.predict(model, data)
    data.setup()
    assert data.loads == ["test", "training"]


class SaveAndStop(Callback):
    """Saves a checkpoint after a number of steps and goes no further."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
            trainer.limit_val_batches = 0


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 10, 11, 14])
def test_resumed_run_goes_on_with_the_next_batch(step: int, tmp_path: Path) -> None:
    whole, begun, resumed = Recorder(), Recorder(), Recorder()
    quiet_trainer(max_epochs=3).fit(whole, NumberedImages())
    stop = SaveAndStop(tmp_path / "last.ckpt", step)
    quiet_trainer(max_steps=step, callbacks=[stop]).fit(begun, NumberedImages())
    quiet_trainer(max_epochs=3).fit(resumed, NumberedImages(), ckpt_path=str(stop.path), weights_only=True)
    assert len(begun.seen["train"]) == step
    got = begun.seen["train"] + resumed.seen["train"]
    assert len(got) == len(whole.seen["train"])
    for (images, labels), (expected_images, expected_labels) in zip(got, whole.seen["train"], strict=True):
        assert torch.equal(labels, expected_labels)
        assert torch.equal(images, expected_images)


def test_resume_after_a_shortened_epoch_begins_the_next_at_its_beginning(tmp_path: Path) -> None:
    begun, resumed = Recorder(), Recorder()
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=3)
    trainer.fit(begun, NumberedImages())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=3)
    trainer.fit(resumed, NumberedImages(), ckpt_path=str(tmp_path / "end.ckpt"), weights_only=True)
    assert begun.labels("train") == epoch_order(0)[:3]
    assert resumed.labels("train") == epoch_order(1)[:3]


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_together_take_the_batches_of_one(world_size: int, epoch: int, drop_last: bool) -> None:
    batch_size = 16  # 40 = 2 · 16 + 8
    shares = []
    for rank in range(world_size):
        data = NumberedImages(batch_size, drop_last=drop_last)
        data.setup("fit")
        pretend(data, world_size, rank)
        loader = data.train_dataloader()
        assert isinstance(loader.sampler, DistributedSampler)
        loader.sampler.set_epoch(epoch)
        shares.append([labels.tolist() for _, labels, _ in loader])
    together = [sorted(flat(parts)) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in epoch_order(epoch, batch_size=batch_size, drop_last=drop_last)]
    assert [len(batch) for batch in together] == ([16, 16] if drop_last else [16, 16, 8])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_evaluation_counts_every_image_once(world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        data = NumberedImages()
        data.setup("test")
        pretend(data, world_size, rank)
        seen += [label for _, labels, _ in data.test_dataloader() for label in labels.tolist()]
    assert sorted(seen) == list(range(TEST))


def test_seeds_have_unrelated_orders() -> None:
    orders = [str(epoch_order(epoch, seed=seed)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert epoch_order(2, seed=3) == epoch_order(2, seed=3)


def test_batch_that_cannot_be_dealt_is_refused() -> None:
    data = NumberedImages(batch_size=10)
    data.setup("fit")
    pretend(data, 4, 0)
    with pytest.raises(ValueError, match=r"`batch_size` \(=10\).* the 4 devices.* divisible by 4; 8 or 12 would do"):
        data.train_dataloader()
    data.batch_size = 2
    with pytest.raises(ValueError, match="4 would do"):
        data.train_dataloader()


def test_batch_larger_than_the_training_set_is_refused() -> None:
    data = NumberedImages(batch_size=TRAIN + 1)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"`batch_size` \(=41\) must be at most the number of training images \(=40\)"):
        data.train_dataloader()


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"batch_size": -4}, {"pad": -1}, {"pad": 10**6}])
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"`{name}` \(={value}\) must be"):
        NumberedImages(**option)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_images_have_the_precision_of_the_trainer(precision: str, dtype: torch.dtype) -> None:
    model = Recorder()
    quiet_trainer(max_epochs=1, precision=precision).fit(model, NumberedImages())
    images, labels = model.seen["train"][0]
    assert (images.dtype, labels.dtype) == (dtype, torch.int64)


def test_prediction_writer_is_told_the_positions() -> None:
    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, *arguments: Any) -> None:
            indices.extend(arguments[3])

    indices: list[int] = []
    quiet_trainer(callbacks=[Writer("batch")]).predict(Recorder(), NumberedImages())
    assert indices == list(range(TEST))


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_takes_the_same_batches_every_epoch() -> None:
    model = Recorder()
    quiet_trainer(max_epochs=2, overfit_batches=2).fit(model, NumberedImages())
    first, second, third, fourth = model.labels("train")
    assert (first, second) == (third, fourth) == (list(range(8)), list(range(8, 16)))


def test_normalize_serves_outside_of_a_trainer() -> None:
    data = NumberedImages()
    data.setup("test")
    images, labels, indices = next(iter(data.test_dataloader()))
    handed, handed_labels = data.on_after_batch_transfer((images, labels, indices), 0)
    assert torch.equal(handed, data.normalize(images))
    assert torch.equal(handed_labels, labels)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (data.mean, data.std))
    torch.testing.assert_close(handed * std + mean, images.permute(0, 3, 1, 2) / 255)


def test_a_fingerprint_tells_copies_of_other_content_apart_and_is_that_of_any_seed() -> None:
    def made(brighter: int, seed: int = 1) -> str | None:
        data = NumberedImages(seed=seed)
        data.setup()
        data.test_set.images.add_(brighter)
        return fingerprint(data)

    assert made(0) == made(0, seed=2)
    assert made(0) != made(1)
    assert fingerprint(None) is None
