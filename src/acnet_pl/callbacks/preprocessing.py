"""Preprocessing: store image preparation and class names in checkpoints, and compare the classes on every later use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pytorch_lightning import Callback, LightningModule, Trainer

from acnet_pl.checkpoint import preprocessing_of
from acnet_pl.image_preparation import faulty_fields

__all__ = [
    "DescribesImages",
    "Preprocessing",
    "check_same_classes",
    "describe_images",
    "image_info",
    "preprocessing_of",
]

_SHOWN = 12  # classes in a message


@runtime_checkable
class DescribesImages(Protocol):
    """Attributes by which a data module describes its images; acnet_pl's own have them."""

    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str]


class Preprocessing(Callback):
    """Store image preparation and class names in checkpoints, if the data module has them.

    A checkpoint that is loaded with data of other classes, or of the same in another order, is an error: its outputs
    would be given other names, without a word.

    Raises:
        ValueError: The class names of checkpoint and data differ.
    """

    def __init__(self) -> None:
        self._info: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read image preparation and class names from the data module."""
        self._info = image_info(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return image preparation and class names for the checkpoint."""
        return dict(self._info)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the classes of a checkpoint with those of the data."""
        # Datamodules may learn the names in setup, which has been called.
        check_same_classes(preprocessing_of(checkpoint), image_info(trainer))


def check_same_classes(trained: Mapping[str, Any], data: Mapping[str, Any], way_out: str = "") -> None:
    """Compare the classes of a trained network with those of data; nothing where either is unknown.

    Args:
        trained: Result of `preprocessing_of`.
        data: Result of `image_info`.
        way_out: Advice for the error message.

    Raises:
        ValueError: The classes differ in names or order.
    """
    was, now = trained.get("class_names"), data.get("class_names")
    if not isinstance(was, list) or not now or was == list(now):
        return
    same = sorted(map(str, was)) == sorted(now)
    differ = "are in another order than" if same else "are not"
    raise ValueError(
        f"the classes of these data {differ} those that the checkpoint was trained on, so its outputs would be given "
        f"wrong names.\n  trained on: {_listed(was)}\n  these data: {_listed(list(now))}\n{way_out}".rstrip()
    )


def image_info(trainer: Trainer) -> dict[str, Any]:
    """Return shape, normalisation and class names of the images of a trainer's data module, if known.

    ``resize`` is the shorter side before the centre of an image is cut, ``exif`` whether images are turned upright.
    """
    return describe_images(getattr(trainer, "datamodule", None))


def describe_images(data: object) -> dict[str, Any]:
    """Return shape, normalisation and class names of a data module's images, as far as they are known and sound."""
    if not isinstance(data, DescribesImages):
        return {}
    try:
        info: dict[str, Any] = {
            "image_shape": [int(size) for size in data.image_shape],
            "mean": [float(value) for value in data.mean],
            "std": [float(value) for value in data.std],
            "class_names": [str(name) for name in data.class_names],
        }
    except (TypeError, ValueError, RuntimeError):  # others' data modules may mean something else by these names
        return {}
    if "image_shape" in faulty_fields(info):
        return {}
    for name in ("resize", "exif"):
        if isinstance(value := getattr(data, name, None), int):
            info[name] = value
    faulty = faulty_fields(info)  # nothing is written that could not be read again
    return {name: value for name, value in info.items() if name not in faulty}


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(repr, names[:_SHOWN]))}{more} ({len(names)})"
