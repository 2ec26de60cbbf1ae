from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from acnet_pl import ACBConv, ImageClassifier, PlainConv
from acnet_pl.analysis import kernel_magnitude
from acnet_pl.backbones import CifarQuick, ResNetCifar
from acnet_pl.callbacks import KernelMagnitude
from acnet_pl.callbacks.kernels import commonest_kernel_size
from acnet_pl.data import DigitsDataModule
from acnet_pl.nn import ConvBuilder, ConvNorm

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


class Logged(CSVLogger):
    """Remembers which epochs had which metrics."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        kernels = {name: value for name, value in metrics.items() if name.startswith("kernels/")}
        if kernels:
            self.seen[int(metrics["epoch"])] = kernels


class Images(WandbLogger):
    """Weights & Biases without its service: keeps the images it is given."""

    def __init__(self) -> None:
        self.images: list[tuple[str, int, tuple[float, ...]]] = []

    @property
    def save_dir(self) -> None:
        return None

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        assert step is not None
        self.images.append((key, step, tuple(images[0].get_size_inches())))

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def after_save_checkpoint(self, *args: Any) -> None: ...

    def finalize(self, status: str) -> None: ...

    @property
    def name(self) -> str:
        return "images"

    @property
    def version(self) -> str:
        return "0"


def fit(tmp_path: Path, callback: KernelMagnitude, epochs: int, conv: ConvBuilder, **options: Any) -> ImageClassifier:
    model = ImageClassifier(options.pop("backbone", ResNetCifar), conv, 10)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=1,
        limit_val_batches=0,
        callbacks=[callback],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=16))
    return model


@pytest.mark.parametrize(("every", "logged"), [(2, [0, 1, 3, 4]), (10, [0, 4]), (0, [])])
def test_it_logs_every_few_epochs_the_first_and_the_last(every: int, logged: list[int], tmp_path: Path) -> None:
    logger = Logged(tmp_path)
    fit(tmp_path, KernelMagnitude(every), 5, PlainConv(), backbone=CifarQuick, logger=logger)
    assert list(logger.seen) == logged


def test_the_shares_are_those_of_the_fused_network(tmp_path: Path) -> None:
    logger, callback = Logged(tmp_path), KernelMagnitude()
    model = fit(tmp_path, callback, 1, ACBConv(), logger=logger)
    expected = kernel_magnitude(model.net)
    (figures,) = logger.seen.values()
    assert callback.result == expected
    assert figures["kernels/skeleton"] == pytest.approx(expected.share("skeleton"))
    assert figures["kernels/corner"] == pytest.approx(1 - figures["kernels/skeleton"])
    layers = {name.removeprefix("kernels/skeleton/"): value for name, value in figures.items() if name.count("/") == 2}
    assert layers == {name: pytest.approx(expected.share("skeleton", name)) for name in expected.layers}
    assert len(layers) == 55


def test_weights_and_biases_is_sent_a_heat_map(tmp_path: Path) -> None:
    logger = Images()
    fit(tmp_path, KernelMagnitude(), 2, ACBConv(), backbone=CifarQuick, logger=logger)
    assert [(key, step) for key, step, _ in logger.images] == [("kernels/magnitude", 1), ("kernels/magnitude", 2)]
    assert all(min(size) > 1 for *_, size in logger.images)


class Diverging(CifarQuick):
    def __init__(self, conv: ConvBuilder, num_classes: int) -> None:
        super().__init__(conv, num_classes)
        next(layer for layer in self.modules() if isinstance(layer, ConvNorm)).conv.weight.data.fill_(torch.nan)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values")
def test_weights_that_are_not_finite_do_not_end_the_training(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="kernel magnitude is not logged"):
        fit(tmp_path, KernelMagnitude(), 1, PlainConv(), backbone=Diverging, logger=False)


@pytest.mark.parametrize(("backbone", "size"), [(CifarQuick, 5), (ResNetCifar, 3)])
@pytest.mark.parametrize("conv", [PlainConv(), ACBConv(), ACBConv(asymmetric_size=3)], ids=repr)
def test_the_commonest_size_counts_a_block_once(backbone: Any, size: int, conv: ConvBuilder) -> None:
    assert commonest_kernel_size(backbone(conv, 10)) == size


def test_a_network_without_such_kernels_has_none() -> None:
    assert commonest_kernel_size(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, (1, 3)))) is None


def test_a_negative_cadence_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        KernelMagnitude(-1)
