"""Classify photos, or the test data of a run, and write the probabilities to a file."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from acnet_pl.cli import run_on_data
from acnet_pl.cli.functions import run_function
from acnet_pl.cli.photo_arguments import about_folders, check_photos, find_photos, true_class
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import check_output, check_there

if TYPE_CHECKING:
    from torch import Tensor

    from acnet_pl.cli.predictor import Predictor

__all__ = ["predict", "run"]

_EXAMPLES = (
    "predict runs/NAME/TIME/checkpoints/last.ckpt new_photos/",
    "predict runs/NAME/TIME/fused.safetensors 'holiday/*.jpg' --output holiday.csv",
    "predict --ckpt_path runs/NAME/TIME/checkpoints/last.ckpt   # the test data of the run",
)
_BEST = 5  # classes told of each photo
_THREADS = 8
_MOST_PIXELS = 2**24  # of photos together, as memory is in proportion: one of 4096², 334 of 224²


def predict(
    network: Path,
    photos: list[str],
    output: Path = Path("predictions.csv"),
    batch_size: int = 64,
    device: str = "auto",
    skip_unreadable: bool = False,
) -> None:
    """Classify photos and write a CSV file: photo, label, probability, the next best, and the class its folder names.

    Args:
        network: A checkpoint of a run, its fused.safetensors, an ONNX file of `export`, or the folder of a run.
        photos: Files, folders (photos at any depth) and patterns such as 'a/*.jpg'.
        output: File to write, NAME.csv.
        batch_size: Photos that are classified together; fewer if together they have more than 16.8 million pixels.
        device: auto, cpu, cuda or cuda:1; ONNX runs on the CPU.
        skip_unreadable: Name photos that cannot be decoded and go on, instead of stopping at the first.
    """
    if batch_size < 1:
        raise UsageError(f"`batch_size` (={batch_size}) must be at least 1")
    file = _network_file(network)
    output = check_output(output, file, *map(Path, photos), ending=".csv")
    from rich.console import Console

    from acnet_pl.atomic import atomic_path
    from acnet_pl.cli.predictor import load_predictor
    from acnet_pl.cli.terminal_text import printable
    from acnet_pl.data.errors import DataError
    from acnet_pl.loggers.csv_text import spreadsheet_text

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    predictor = load_predictor(file, device)
    found = find_photos(photos)
    names = predictor.class_names
    paths = list(found.roots)
    check_output(output, *paths)
    truths = [true_class(path, root, names) for path, root in found.roots.items()]
    right = judged = 0
    unreadable: list[str] = []
    unjudged: list[Path] = []
    started = time.perf_counter()
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as unfinished, _writing(unfinished) as file_of_rows:
        writer = csv.writer(file_of_rows)
        writer.writerow(_header(names, any(truths)))
        for number, answer in _classified(predictor, paths, _fitting(batch_size, predictor)):
            if isinstance(answer, str):
                if not skip_unreadable:
                    raise DataError(
                        f"{paths[number]} cannot be decoded ({answer}); mend or remove it, or give "
                        "--skip_unreadable to leave such photos out"
                    )
                unreadable.append(f"{paths[number]}: {answer}")
                continue
            if not answer.isfinite().all():
                raise ValueError(
                    f"{file} gives no finite logits for {paths[number]}, so its weights or what it says of its images "
                    "are wrong; take another file of the same run"
                )
            row: list[str] = [spreadsheet_text(str(paths[number]))]
            best = answer.topk(min(_BEST, len(answer)))
            labels = [names[index] for index in best.indices.tolist()]
            for label, probability in zip(labels, best.values.tolist(), strict=True):
                row += [spreadsheet_text(label), f"{probability:.4f}"]
            if any(truths):
                row.append(spreadsheet_text(truths[number] or ""))
            writer.writerow(row)
            if truths[number] is None:
                unjudged.append(paths[number])
            judged += truths[number] is not None
            right += truths[number] == labels[0]
    seconds = time.perf_counter() - started
    for line in unreadable:
        console.print(printable(f"Left out {line}"))
    if found.passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.passed_over.most_common(5))
        console.print(f"Ignored other files: {kinds}")
    if judged:
        console.print(
            f"{right:,} of {judged:,} photos in folders named after a class got that class ({right / judged:.1%})"
        )
    if about := about_folders(unjudged, found.roots, names, any(truths)):
        console.print(printable(about))
    count = len(paths) - len(unreadable)
    console.print(f"Wrote {output}: {count:,} photos, {count / seconds:.0f} images/s")


def _fitting(batch_size: int, predictor: Predictor) -> int:
    return max(1, min(batch_size, _MOST_PIXELS // predictor.cut.size**2))


def _names_photos(args: Sequence[str]) -> bool:
    """Return True if the command classifies photos or shows help; False if it uses ``--ckpt_path`` and a run's data."""
    options = [word.partition("=")[0] for word in args[1:] if word.startswith("-")]
    return not {"--ckpt_path", "--config", "-c", "--print_config"} & {*options}


def run(args: Sequence[str]) -> None:
    """Parse the options, and classify photos; the data of a run as `test` does."""
    if not _names_photos(args):
        run_on_data(args)
        return
    if {"-h", "--help"} & {*args}:
        run_function(predict, args, _EXAMPLES)
        return
    given, options = _parted(args[1:])
    if not given:
        raise UsageError(
            "predict needs a trained network and photos: predict NETWORK PHOTOS..., or --ckpt_path for a run's own data"
        )
    check_photos(given[1:])
    run_function(predict, [args[0], given[0], *options], _EXAMPLES, {"photos": given[1:]})


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into those that belong to no option, and the options with their values."""
    given: list[str] = []
    options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            given += rest
            break
        if not word.startswith("--"):
            given.append(word)
        elif word.replace("-", "_") == "__skip_unreadable":
            value = rest.pop(0) if rest[:1] in (["true"], ["false"]) else "true"
            options.append(f"--skip_unreadable={value}")
        else:
            options.append(word)
            if "=" not in word and rest:
                options.append(rest.pop(0))
    return given, options


def _network_file(given: Path) -> Path:
    """Return the file of a network; in a run's folder, the fused network, or else the last checkpoint."""
    check_there(given, "checkpoint")
    if not given.is_dir():
        return given
    files = [given / name for name in ("fused.safetensors", "checkpoints/last.ckpt")]
    if (found := next((file for file in files if file.is_file()), None)) is None:
        raise UsageError(
            f"{given} is a folder without a trained network; the first word is the network (a checkpoint, a "
            "fused.safetensors, an ONNX file or the folder of a run), photos come after it"
        )
    return found


def _classified(predictor: Predictor, paths: Sequence[Path], batch_size: int) -> Iterator[tuple[int, Tensor | str]]:
    """Yield each photo's number with its probabilities ``(classes,)``, or the reason why it cannot be decoded."""
    import torch
    from rich.progress import track

    from acnet_pl.data.shard_writer import in_order

    with ThreadPoolExecutor(_THREADS) as pool:
        read = in_order(pool, partial(_read, predictor, paths), range(len(paths)), 2 * batch_size)
        photos = enumerate(track(read, "Classifying", total=len(paths)))
        while batch := list(islice(photos, batch_size)):
            readable = [image for _, image in batch if not isinstance(image, str)]
            answers = iter(predictor.probabilities(torch.stack(readable)) if readable else ())
            for number, image in batch:
                yield number, image if isinstance(image, str) else next(answers)


def _read(predictor: Predictor, paths: Sequence[Path], number: int) -> Tensor | str:
    """Return a photo cut to size, uint8 ``(H, W, 3)``, or the reason why it cannot be decoded."""
    import numpy as np
    import torch

    from acnet_pl.data.decoding import UnreadableImageError, decode
    from acnet_pl.regular_files import check_regular

    try:
        check_regular(paths[number])
        content = torch.from_numpy(np.fromfile(paths[number], np.uint8))
        return predictor.cut(decode(content, predictor.cut.upright), 0)
    except OSError as error:
        return error.strerror or str(error)
    except UnreadableImageError as error:
        return str(error)


def _header(names: Sequence[str], has_truth: bool) -> list[str]:
    more = [f"{word}_{place}" for place in range(2, min(_BEST, len(names)) + 1) for word in ("label", "probability")]
    return ["file", "label", "probability", *more, *(["true"] if has_truth else [])]


def _writing(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
