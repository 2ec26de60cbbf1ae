from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from acnet_pl.backbones import ResNetCifar
from acnet_pl.data import DigitsDataModule
from acnet_pl.data.training_loader import TrainingSampler
from acnet_pl.graphs import Batching, DeviceImages, Momentum, NetworkTraining
from acnet_pl.modules import CosineSchedule, ImageClassifier
from acnet_pl.modules.classifier import default_optimizer
from acnet_pl.nn import ACBConv, ConvBuilder

Make = Callable[..., NetworkTraining]
BATCH, PAD, EPOCHS = 100, 2, 2


@pytest.fixture(scope="session")
def digits() -> DigitsDataModule:
    data = DigitsDataModule(image_size=8, batch_size=BATCH, seed=5, pad=PAD, flip=True)
    data.setup()
    return data


def classifier(conv: ConvBuilder) -> ImageClassifier:
    torch.manual_seed(11)
    return ImageClassifier(partial(ResNetCifar, depth=8), conv, 10, bias_lr_multiplier=2, label_smoothing=0.1)


@pytest.fixture(scope="session")
def make(digits: DigitsDataModule) -> Make:
    """``make(conv, device=..., lr=..., autocast=...)``: a training of two epochs of 11 steps, always the same one."""

    def training(
        conv: ConvBuilder | None = None, device: str = "cpu", lr: float = 0.1, autocast: torch.dtype | None = None
    ) -> NetworkTraining:
        model = classifier(ACBConv(gamma_init=1 / 3) if conv is None else conv)
        model.optimizer_factory = partial(default_optimizer, lr=lr)
        images = DeviceImages.of(digits.train_set, digits.mean, digits.std, torch.device(device))
        steps = len(images) // BATCH
        sampler = TrainingSampler(images, num_replicas=1, rank=0, seed=5, drop_last=True)

        def order(epoch: int) -> Tensor:
            sampler.set_epoch(epoch)
            return torch.tensor(list(sampler.whole_pass()))

        schedule = CosineSchedule(warmup_epochs=0.5)
        return NetworkTraining(
            model.net,
            Momentum.like(model.make_optimizer()),
            lambda step: schedule.factor(step, steps, EPOCHS),
            images,
            Batching(order, 5, BATCH, PAD, flip=True),
            epochs=EPOCHS,
            label_smoothing=0.1,
            autocast=autocast,
        )

    return training
