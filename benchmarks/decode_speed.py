"""Images decoded per second: JPEG of 500×375 pixels, by one core and by nvJPEG on a GPU.

    python benchmarks/decode_speed.py --device cuda --out decoding.json

The images are those of imagenet_throughput.py, in batches as ImageNetDataModule hands them to the training device.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from acnet_pl.data.decoding import decode_all
from imagenet_throughput import natural_image
from record import write_record


def encoded_images(count: int, quality: int) -> list[Tensor]:
    """JPEG files in memory."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(natural_image(rng, 375, 500)).save(file, "JPEG", quality=quality)
        files.append(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))
    return files


def images_per_second(files: list[Tensor], device: torch.device, batch: int, rounds: int) -> list[float]:
    """Of each round; the first is a warm-up and left out."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for first in range(0, len(files), batch):
            for image in decode_all(files[first : first + batch], device):
                assert isinstance(image, Tensor), image
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(len(files) / (time.perf_counter() - start))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="different ones")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quality", type=int, default=92)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = encoded_images(options.images, options.quality)
    kilobytes = sum(map(len, files)) / len(files) / 1e3
    rows = []
    for name in dict.fromkeys(("cpu", options.device)):
        rates = images_per_second(files, torch.device(name), options.batch_size, options.rounds)
        rows.append({"device": name, "images_per_second": statistics.median(rates), "rounds": rates})
        how = "one core" if name == "cpu" else "nvJPEG"
        print(f"{how}: {statistics.median(rates):.0f} images/s ({min(rates):.0f}-{max(rates):.0f})", flush=True)
    if options.out:
        figures = {"images": options.images, "kilobytes": kilobytes, "batch_size": options.batch_size, "rows": rows}
        write_record(options.out, figures)


if __name__ == "__main__":
    main()
