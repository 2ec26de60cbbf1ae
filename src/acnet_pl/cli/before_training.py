"""Check devices and data before training starts, and report the images per step."""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from acnet_pl.backbones._checks import ImageSize
from acnet_pl.callbacks.preprocessing import describe_images
from acnet_pl.data import CIFARDataModule, ImageFolderDataModule, InMemoryDataModule

__all__ = [
    "check_accelerator",
    "check_data",
    "check_image_size",
    "check_synchronised_norms",
    "images_per_step",
    "warn_of_selection",
]

_FEW = 8  # processes that any CPU may be given, for trying


def check_accelerator(accelerator: Any, devices: Any = "auto") -> None:
    """Raise a ValueError for an accelerator that this machine does not have, or many more processes than CPU cores."""
    mps = torch.backends.mps.is_available()
    there = {"gpu": torch.cuda.is_available() or mps, "cuda": torch.cuda.is_available(), "mps": mps}
    if there.get(accelerator, True):
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not there["gpu"])
        count = int(devices) if str(devices).isdecimal() else int(devices == "auto")
        if on_cpu and count < 1:
            raise ValueError(
                f"--trainer.devices {devices}: on a CPU this is the number of processes, at least 1, or auto"
            )
        if on_cpu and count > max(_FEW, os.cpu_count() or 1):
            raise ValueError(
                f"--trainer.devices {devices} are as many processes on a CPU, which has {os.cpu_count()} cores here; "
                "give 1, or as many as there are cores"
            )
        return
    raise ValueError(
        f"--trainer.accelerator {accelerator}: this machine has none that PyTorch {torch.__version__} can use; leave "
        "the option out for the best that there is, or give --trainer.accelerator cpu"
    )


def check_synchronised_norms(asked: bool, trainer: Trainer) -> None:
    """Raise an error if batch norms are to be synchronised over CPU processes; warn if there is only one.

    Args:
        asked: Value of ``--trainer.sync_batchnorm``.
        trainer: The trainer; its processes need not have started.

    Raises:
        ValueError: PyTorch synchronises batch norms on GPUs only.
    """
    if not asked or not isinstance(trainer.accelerator, CPUAccelerator):
        return
    needs = "--trainer.sync_batchnorm true: synchronised batch norms need GPUs, and this run is on"
    if trainer.world_size > 1:
        raise ValueError(
            f"{needs} {trainer.world_size} CPU processes; leave --trainer.sync_batchnorm out, and each process "
            "normalises by its own share of the batch"
        )
    rank_zero_warn(f"{needs} one CPU process, whose batches are whole without it; leave --trainer.sync_batchnorm out")


def check_data(data: LightningDataModule, trainer: Trainer) -> None:
    """Load data that are kept in memory, and list photos, so that errors in them come before loggers and workers start.

    Several processes, of which one prepares the data, leave that to the trainer.

    Raises:
        ValueError: The data do not fit the options.
        DataError: The data cannot be read.
    """
    if isinstance(data, (InMemoryDataModule, ImageFolderDataModule)) and trainer.world_size == 1:
        data.prepare_data()
        data.setup("fit")
        data.train_dataloader()


def check_image_size(network: nn.Module, data: LightningDataModule) -> None:
    """Raise a ValueError if the network does not take images of the size that the data have, where both are known."""
    shape: list[int] = describe_images(data).get("image_shape", [])
    for layer in network.modules() if shape else ():
        if isinstance(layer, ImageSize):
            layer(torch.empty([1, *shape], device="meta"))


def warn_of_selection(data: LightningDataModule, trainer: Trainer) -> None:
    """Warn if the best epoch is chosen on the test images."""
    checkpoint = trainer.checkpoint_callback
    same = getattr(data, "validates_on_test_images", isinstance(data, CIFARDataModule) and data.val_size == 0)
    monitor = getattr(checkpoint, "monitor", None)
    if same and isinstance(checkpoint, ModelCheckpoint) and monitor is not None:
        rank_zero_warn(
            f"--checkpoint.monitor {monitor} chooses the best epoch on the validation images, which are the test "
            "images here: the test figures come out too good. Keep images in a test split of their own, or take the "
            "last epoch"
        )


def images_per_step(data: LightningDataModule, trainer: Trainer) -> str:
    """Return the images per optimisation step, in words; nothing if the batch size is unknown."""
    batch = getattr(data, "batch_size", None)
    if not isinstance(batch, int):
        return ""
    accumulated = trainer.accumulate_grad_batches
    # The batches of acnet_pl's data are those of all devices together; other data modules have one for each.
    devices = 1 if type(data).__module__.startswith("acnet_pl.data") else trainer.world_size
    factors = [f"batch_size {batch}"]
    factors += [f"{devices} devices"] * (devices > 1) + [f"{accumulated} accumulated batches"] * (accumulated > 1)
    return f"{batch * devices * accumulated:,} images a step ({' × '.join(factors)})"
