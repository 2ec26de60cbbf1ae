"""Prepare the images that `validate`, `test` and `predict` are given as those that the checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info

from acnet_pl.callbacks.preprocessing import describe_images
from acnet_pl.checkpoint import preprocessing_of, read_checkpoint
from acnet_pl.config.arguments import Arguments
from acnet_pl.config.catalogue import Catalogue
from acnet_pl.config.defaults import checkpoint_that_brings_data, data_of_checkpoint
from acnet_pl.config.files import CONFIG
from acnet_pl.config.settings import Setting, settings_of_arguments, text_of
from acnet_pl.data.encoded_data_module import EncodedDataModule
from acnet_pl.data.in_memory import InMemoryDataModule

__all__ = ["data_lines", "prepare_alike", "with_preparation_of_checkpoint"]

_NORMALISATION = ("mean", "std")


def with_preparation_of_checkpoint(args: Sequence[str]) -> list[str]:
    """Add the options that prepare images as the checkpoint's were, as far as the command line says nothing of them.

    They are added where the data module has such options. `fit` is left as it is.

    Args:
        args: The command and its arguments, the data among them.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    arguments = Arguments(args)
    path = arguments.last("ckpt_path")
    if arguments.command == "fit" or not path or not Path(path).is_file():
        return list(args)
    catalogue, given = Catalogue(arguments.command), _data_settings(args)
    for setting in given:
        catalogue.choose(setting)
    known = catalogue.options_of("data") if catalogue.owner("data") else {}
    values = {setting.name: text_of(setting.value) for setting in given}
    about = preprocessing_of(read_checkpoint(path), path)
    added = []
    for name, value in _options(about, values.get("data.image_size")).items():
        text = text_of(value) or ""
        if name in known and name not in values and known[name].values.is_known and not known[name].values.refuse(text):
            added.append(f"--{name}={text}")
    return [*args, *added]


def prepare_alike(trained: Mapping[str, Any], data: LightningDataModule) -> None:
    """Have acnet_pl's data modules normalise images as the checkpoint's were; say what is still prepared otherwise.

    Args:
        trained: Result of `preprocessing_of`.
        data: Changed in place.
    """
    if isinstance(data, (EncodedDataModule, InMemoryDataModule)):
        channels = data.image_shape[0]
        if all(len(trained.get(name, ())) == channels for name in _NORMALISATION):
            data.mean, data.std = tuple(trained["mean"]), tuple(trained["std"])
    if differences := [*_differences(trained, describe_images(data))]:
        rank_zero_info(
            f"These images are prepared otherwise than those that the network was trained on: {', '.join(differences)}"
        )


def data_lines(given: Sequence[str], args: Sequence[str]) -> list[str]:
    """Return a line on the data that a command uses with a checkpoint, if it does, with the options that count.

    Args:
        given: The command and its arguments as the user gave them.
        args: The same with what the checkpoint adds.
    """
    checkpoint = checkpoint_that_brings_data(given)
    if checkpoint is None and given[0] == "fit":
        return []
    options = {setting.name.removeprefix("data."): setting.value for setting in _data_settings(args)}
    name = str(options.pop("data", "")).rpartition(".")[2]
    if checkpoint is None and not name:
        return []
    folder = data_of_checkpoint(checkpoint)[0] if checkpoint else None
    source = f" of {folder / CONFIG}" if folder else ""
    return [f"Data{source}: {name}({', '.join(f'{option}={value}' for option, value in options.items())})"]


def _data_settings(args: Sequence[str]) -> list[Setting]:
    """Return what a command line sets of its data module."""
    settings = settings_of_arguments(Arguments(args))
    return [setting for setting in settings if setting.name == "data" or setting.name.startswith("data.")]


def _options(about: Mapping[str, Any], given_size: str | None) -> dict[str, Any]:
    """Return the options that prepare images as described; those of the size only for the size described."""
    options: dict[str, Any] = {"data.exif": about["exif"]} if "exif" in about else {}
    _, height, width = about.get("image_shape", (0, 0, -1))
    if height == width and given_size in (None, str(height)):
        options["data.image_size"] = height
        options["data.resize"] = max(about.get("resize", height), height)
    return options


def _differences(trained: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    for name in ("image_shape", "resize", "exif", *_NORMALISATION):
        if name not in trained or name not in data or trained[name] == data[name]:
            continue
        was, now = trained[name], data[name]
        if name == "image_shape":
            was, now = ("×".join(map(str, shape)) for shape in (was, now))
        yield f"{name.removeprefix('image_')} {now} instead of {was}"
