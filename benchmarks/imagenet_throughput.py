"""ImageNet training images per second and core: ImageNetDataModule against the classic torchvision recipe.

    python benchmarks/imagenet_throughput.py [--rounds 7] [--images 1024] [--output benchmarks/results/...]

The classic recipe is ImageFolder (Pillow), RandomResizedCrop(224), RandomHorizontalFlip, ToTensor and Normalize behind
a shuffling DataLoader; it hands over float32. Ours hands over uint8, which the training device flips, shifts in colour
and normalises. Both read the same JPEG files, made on the spot: 500×375 pixels, about as many bytes as ImageNet's have
(110 KB in the mean), with the 1/f spectrum and the occluding objects of natural images. Each runs without worker
processes and with one. What is counted is the CPU time of all processes, in one thread each, so that other load on the
machine matters little. Rounds of the contestants are interleaved; medians are reported.

`stages` says where the time goes, and what decoding large images at a reduced scale (libjpeg's DCT scaling, which
Pillow offers as `draft` and torchvision does not) would save: little, because most of decoding is entropy decoding.
"""

import argparse
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from acnet_pl.data import ImageNetDataModule
from acnet_pl.data.crops import resized_crop
from acnet_pl.data.decoding import decode
from record import write_record

Pass = Callable[[int], int]
SIZE = 224


def natural_image(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Discs of all sizes that hide each other, under noise whose amplitude falls as 1/f."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def noise(power: float) -> npt.NDArray[np.float64]:
        spectrum = rng.normal(size=(2, *frequency.shape)) * frequency**-power
        field = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (height, width))
        standard: npt.NDArray[np.float64] = (field - field.mean()) / field.std()
        return standard

    pixels = 110 + 30 * noise(1.0)[..., None] + 6 * np.stack([noise(1.2) for _ in range(3)], -1)
    rows, columns = np.mgrid[:height, :width]
    objects = np.zeros((height, width, 3))
    for radius in np.sort(8 + 10 * rng.pareto(1.5, 60))[::-1]:
        inside = (rows - rng.uniform(0, height)) ** 2 + (columns - rng.uniform(0, width)) ** 2 < radius**2
        objects[inside] = 25 * rng.normal(size=3) + 35 * rng.normal()
    return np.clip(pixels + objects, 0, 255).astype(np.uint8)


def write_images(root: Path, count: int, quality: int) -> float:
    """64 different images, as often as needed, in 8 classes; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(64):
        height, width = (500, 375) if number % 4 == 0 else (375, 500)
        file = io.BytesIO()
        Image.fromarray(natural_image(rng, height, width)).save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    for split, n in (("train", count), ("val", 8)):
        for number in range(n):
            folder = root / split / f"n{number % 8:08}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.JPEG").write_bytes(files[number % 64])
    return statistics.mean(map(len, files))


def classic(root: Path, batch_size: int, workers: int) -> Pass:
    pipeline = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(ImageNetDataModule.mean, ImageNetDataModule.std),
    ]
    images = datasets.ImageFolder(str(root / "train"), transforms.Compose(pipeline))

    def epoch(number: int) -> int:
        loader: DataLoader[Any] = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=workers)
        return sum(len(labels) for _, labels in loader)

    return epoch


def ours(root: Path, batch_size: int, workers: int) -> Pass:
    data = ImageNetDataModule(root, batch_size=batch_size, num_workers=workers, seed=0)
    data.setup("fit")
    loader = data.train_dataloader()

    def epoch(number: int) -> int:
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return sum(len(labels) for _, labels, _ in loader)

    return epoch


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def interleaved(passes: dict[str, Pass], rounds: int) -> dict[str, list[float]]:
    """Images per CPU second of each, in each round; a first round is not counted."""
    figures: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name, epoch in passes.items():
            start = cpu_seconds()
            count = epoch(number)
            if number:
                figures[name].append(count / (cpu_seconds() - start))
    return figures


def stages(root: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time for each step on one image, and for large crops of large images as a whole."""
    small = [path.read_bytes() for path in sorted(root.glob("train/*/*"))[:32]]
    rng, file = np.random.default_rng(1), io.BytesIO()
    Image.fromarray(natural_image(rng, 1200, 1600)).save(file, "JPEG", quality=92)
    large = [file.getvalue()]
    box = (150, 200, 900, 1200)

    def tensors(contents: Sequence[bytes]) -> list[Tensor]:
        return [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]

    def pillow(content: bytes) -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    def reduced(content: bytes) -> None:
        image = Image.open(io.BytesIO(content))
        top, left, height, width = (side // 4 for side in box)
        image.draft("RGB", (image.width // 4, image.height // 4))
        image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))

    images, decoded = [pillow(content) for content in small], [decode(content) for content in tensors(small)]
    crop, corners = (37, 50, 300, 400), (50, 37, 450, 337)
    scaled = images[0].crop(corners).resize((SIZE, SIZE))
    as_float = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    steps: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "Pillow: decode": (pillow, small),
        "torchvision: decode": (decode, tensors(small)),
        "Pillow: crop and resize": (
            lambda image: image.crop(corners).resize((SIZE, SIZE), Image.Resampling.BILINEAR),
            images,
        ),
        "uint8 tensor: crop and resize": (lambda image: resized_crop(image, crop, SIZE), decoded),
        "ToTensor and Normalize": (as_float, [scaled] * 32),
        "1600×1200, torchvision: decode, crop and resize": (
            lambda content: resized_crop(decode(content), box, SIZE),
            tensors(large),
        ),
        "1600×1200, Pillow at 1/4 scale: decode, crop and resize": (reduced, large),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, items) in steps.items():
            start = time.process_time()
            for item in items:
                step(item)
            times[name].append(1000 * (time.process_time() - start) / len(items))
    return {name: round(statistics.median(figures), 3) for name, figures in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs; decides their size")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "imagenet_throughput.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_images(root, options.images, options.quality)
        passes = {
            f"{name}, {workers} worker{'s' * (workers != 1)}": recipe(root, options.batch_size, workers)
            for workers in (0, 1)
            for name, recipe in (("classic", classic), ("acnet_pl", ours))
        }
        figures = interleaved(passes, options.rounds)
        times = stages(root, 3 * options.rounds)
    pairs = {name.split(", ")[1]: name for name in figures if name.startswith("acnet_pl")}
    ratios = {
        workers: [a / b for a, b in zip(figures[name], figures[f"classic, {workers}"], strict=True)]
        for workers, name in pairs.items()
    }
    result = {
        "image": {"pixels": "500×375", "mean_bytes": round(size), "jpeg_quality": options.quality},
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "images_per_cpu_second": {name: round(statistics.median(rates)) for name, rates in figures.items()},
        "images_per_cpu_second_range": {name: [round(min(r)), round(max(r))] for name, r in figures.items()},
        "ratio_to_classic": {name: round(statistics.median(ratio), 2) for name, ratio in ratios.items()},
        "ratio_to_classic_range": {name: [round(min(r), 2), round(max(r), 2)] for name, r in ratios.items()},
        "stages_in_ms": times,
    }
    write_record(options.output, result, "pillow", "numpy")
    print(options.output.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
