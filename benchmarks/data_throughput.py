"""Training images per second: our in-memory loader and batched augmentation against torchvision's per-image transforms.

    python benchmarks/data_throughput.py [--root DATA] [--output benchmarks/results/data_throughput.json]

Both sides do the article's augmentation (pad 4, random crop, left-right flip, normalise) over 50,000 CIFAR-sized images
and hand over float32 batches on the CPU. Ours runs in one thread. torchvision's is the usual ToTensor pipeline behind a
shuffling DataLoader, without workers and with one worker for each core. Rounds of the contestants are interleaved;
medians are reported.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from acnet_pl.data import CIFARDataModule, InMemoryImages
from acnet_pl.data.augment import augment
from record import write_record

Contestant = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class PILImages(Dataset[Any]):
    """What torchvision.datasets.CIFAR10 does for each image."""

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: list[int], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def ours(data: CIFARDataModule) -> Contestant:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, indices in data.train_dataloader():
            cropped = augment(images, indices, seed=data.seed, epoch=0, pad=data.pad, flip=data.flip)
            yield data.normalize(cropped), labels

    return batches


def torchvisions(data: CIFARDataModule, workers: int) -> Contestant:
    pipeline = [
        transforms.RandomCrop(32, 4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(data.mean, data.std),
    ]
    train = data.train_set
    dataset = PILImages(train.images.numpy(), train.labels.tolist(), transforms.Compose(pipeline))
    loader: DataLoader[Any] = DataLoader(
        dataset, data.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: iter(loader)


def images_per_second(contestant: Contestant, batches: int) -> float:
    iterator = contestant()
    next(iterator)  # starting the workers is not counted
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in islice(iterator, batches))
    return count / (time.perf_counter() - start)


def load(root: Path | None, batch_size: int) -> CIFARDataModule:
    data = CIFARDataModule(root=root or "data", val_size=0, verify=False, batch_size=batch_size)
    if root is None:  # speed does not depend on what the images show
        images = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8)
        data._train_set = InMemoryImages(images, torch.arange(50_000) % 10)
    else:
        data.setup("fit")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="CIFAR-10 in the python or the folder layout; default: random images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data_throughput.json")
    options = parser.parse_args()

    data = load(options.root, options.batch_size)
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    contestants = {
        "acnet_pl": (ours(data), 389),
        "torchvision, no workers": (torchvisions(data, 0), 60),
        f"torchvision, {cores} workers": (torchvisions(data, cores), 60),
    }
    rounds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, (contestant, batches) in contestants.items():
            rounds[name].append(images_per_second(contestant, batches))
    medians = {name: statistics.median(figures) for name, figures in rounds.items()}
    best = max(figure for name, figure in medians.items() if name != "acnet_pl")
    figures = {
        "images": "random" if options.root is None else "CIFAR-10",
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "images_per_second": {name: round(figure) for name, figure in medians.items()},
        "images_per_second_range": {name: [round(min(r)), round(max(r))] for name, r in rounds.items()},
        "ratio_to_the_faster_torchvision": round(medians["acnet_pl"] / best, 1),
    }
    write_record(options.output, figures, "pillow", "numpy")
    print(options.output.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
