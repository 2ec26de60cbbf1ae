"""LightningModules and batches as people have them: nothing in them knows of acnet_pl but the blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from acnet_pl import ACBlock

CLASSES, SIZE, COUNT = 3, 8, 12


def block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(ACBlock(channels_in, channels_out, 3, stride, padding=1), nn.ReLU())


class Classifier(nn.Module):
    """A network with a stem that is a convolution and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(block(4, 6), block(6, 6, 2))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.norm(self.stem(image)).relu()).mean((2, 3)))
        return logits


class Segmenter(nn.Module):
    """Two outputs of different sizes, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = block(3, 6, 2)
        self.coarse = nn.Conv2d(6, CLASSES, 1)
        self.fine = ACBlock(6, CLASSES, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        features = self.encoder(image)
        full = F.interpolate(features, size=image.shape[-2:])
        return {"masks": self.fine(full), "aux": [self.coarse(features)]}


class Fusion(nn.Module):
    """Takes two images."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = block(3, 4), block(1, 4)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, colour: Tensor, depth: Tensor) -> Tensor:
        both = torch.cat([self.left(colour), self.right(depth)], 1)
        logits: Tensor = self.head(both.mean((2, 3)))
        return logits


@dataclass
class Sample:
    image: Tensor
    label: Tensor

    def to(self, device: Any) -> Sample:
        return Sample(self.image.to(device), self.label.to(device))


def tuples(n: int) -> Any:
    return torch.randn(n, 3, SIZE, SIZE), torch.arange(n) % CLASSES


def dicts(n: int) -> Any:
    image, label = tuples(n)
    return {"label": label, "image": image, "file": [f"{i}.png" for i in range(n)]}


def dataclasses(n: int) -> Any:
    return Sample(*tuples(n))


def masks(n: int) -> Any:
    image = torch.randn(n, 3, SIZE, SIZE)
    return {"image": image, "mask": (image[:, 0] > 0).long()}


def pairs(n: int) -> Any:
    """As the default collation makes them of ``((colour, depth), label)``."""
    return [[torch.randn(n, 3, SIZE, SIZE), torch.randn(n, 1, SIZE, SIZE)], torch.arange(n) % CLASSES]


class Own(pl.LightningModule):
    """The network in ``self.model``."""

    batches: Callable[[int], Any] = staticmethod(tuples)
    network: Callable[[], nn.Module] = Classifier

    def __init__(self) -> None:
        super().__init__()
        self.model = type(self).network()

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(batch[0]), batch[1]

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(*self.logits_and_labels(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=COUNT)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch), batch_size=COUNT)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class OwnDicts(Own):
    batches = staticmethod(dicts)

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(batch["image"]), batch["label"]


class OwnDataclasses(Own):
    batches = staticmethod(dataclasses)

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(batch.image), batch.label


class OwnSegmentation(Own):
    batches = staticmethod(masks)
    network = Segmenter

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(batch["image"])["masks"], batch["mask"]


class OwnPairs(Own):
    batches = staticmethod(pairs)
    network = Fusion

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(*batch[0]), batch[1]


class OwnLayers(Own):
    """The layers of the network are those of the LightningModule."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.block = ACBlock(4, 6, 3, padding=1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.norm(self.conv(x)).relu()).mean((2, 3)))
        return logits

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self(batch[0]), batch[1]


class OwnTwoNetworks(Own):
    """Two networks and optimizers, by hand; no forward."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)
        self.automatic_optimization = False
        self.generator = nn.Sequential(block(3, 4), nn.Conv2d(4, 3, 1))
        self.discriminator = Classifier()

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.discriminator(self.generator(batch[0])), batch[1]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in (self.generator, self.discriminator)]


EVERYONE = [Own, OwnDicts, OwnDataclasses, OwnSegmentation, OwnPairs, OwnLayers, OwnTwoNetworks]


def loader(kind: type[Own], batches: int = 2) -> DataLoader[Any]:
    """A loader of ready batches, the same ones every epoch."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    made: Any = [kind.batches(COUNT) for _ in range(batches)]
    torch.set_rng_state(state)
    return DataLoader(made, batch_size=None)


class Noisy(Dataset[Any]):
    """Ten images of which each is disturbed anew by all the generators that people use."""

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i >= 10:
            raise IndexError
        disturbance = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return torch.full((3, SIZE, SIZE), i / 10) * disturbance, i % CLASSES

    def __len__(self) -> int:
        return 10


class Stream(IterableDataset[Any]):
    """The same images, one after another; nobody knows at which one it is."""

    def __init__(self, length: int | None = 10) -> None:
        self.images, self.length = Noisy(), length

    def __iter__(self) -> Any:
        return (self.images[i] for i in range(10))

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError
        return self.length


def shuffled(**options: Any) -> DataLoader[Any]:
    """An ordinary loader: five batches in another order and with other disturbances every epoch."""
    return DataLoader(options.pop("dataset", Noisy()), **{"batch_size": 2, "shuffle": True, **options})


def trainer(folder: Any, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    defaults: dict[str, Any] = {"max_epochs": 2, **off}
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        log_every_n_steps=1,
        **{**defaults, **options},
    )
