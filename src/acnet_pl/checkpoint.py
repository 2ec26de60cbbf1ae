"""Atomic checkpoint writes and code-free reads."""

from __future__ import annotations

import errno
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from acnet_pl.atomic import atomic_path
from acnet_pl.image_preparation import check_preparation
from acnet_pl.modules.architecture import build_network
from acnet_pl.modules.budget import built_within
from acnet_pl.torch_file import load_plain

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointError",
    "build_described",
    "check_readable",
    "classifier_options",
    "install_io",
    "load_network",
    "preprocessing_of",
    "read_checkpoint",
]

_ARCHITECTURE = ("backbone", "conv", "num_classes")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another network, or holds more than plain data and tensors."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; verify every checksum and execute nothing.

    Raises:
        CheckpointError: The file is missing, truncated, corrupt, not a checkpoint, or asks for code to be run.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; of a run's folder give checkpoints/last.ckpt")
    if path.suffix == ".safetensors" and path.exists():
        raise CheckpointError(f"{path} holds weights alone; give the run's checkpoints/last.ckpt")
    try:
        content = load_plain(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}; a run keeps its own under checkpoints/") from error
    except Exception as error:  # a damaged archive may fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({reason}); take another: a run keeps last.ckpt and "
            "previous.ckpt under checkpoints/"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(
            f"{path} is not a checkpoint of a Lightning run: it has no state_dict. Weights alone are for a backbone of "
            "torchvision or timm (--model.backbone.weights_file FILE), or for a model of your own in Python"
        )
    return content


def load_network(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: A checkpoint that an `ImageClassifier` run wrote.

    Returns:
        The not fused network on the CPU in eval mode, and what it was built from: ``backbone``, ``conv``,
        ``num_classes``; with ``preprocessing``, where the checkpoint tells how images are prepared.

    Raises:
        CheckpointError: The file is missing, damaged, holds anything but plain data and tensors, or is of something
            else.
        ValueError: It is of a backbone that is neither acnet_pl's nor imported by the caller.
    """
    content = read_checkpoint(path)
    options = classifier_options(content, path)
    info = {name: options[name] for name in _ARCHITECTURE}
    network = build_described(info, path)
    if about := preprocessing_of(content, path):
        info["preprocessing"] = about
    state = {k.removeprefix("net."): v for k, v in content["state_dict"].items() if str(k).startswith("net.")}
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit the network that it describes: {error}") from error
    return network.eval(), info


def classifier_options(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the hyper-parameters of the `ImageClassifier` in a checkpoint.

    Raises:
        CheckpointError: It is of another LightningModule; the message says how to load that.
    """
    options = checkpoint.get("hyper_parameters")
    if not isinstance(options, dict) or not options.keys() >= {*_ARCHITECTURE}:
        raise CheckpointError(
            f"{path} is not a checkpoint of an acnet_pl ImageClassifier; load that of a LightningModule of your own in "
            f"Python, by module = MyModule.load_from_checkpoint({str(path)!r}), and give its network in eval mode "
            "(module.net.eval(), whatever you called it) to acnet_pl.fuse_model or acnet_pl.export_model"
        )
    return options


def preprocessing_of(checkpoint: dict[str, Any], path: str | Path = "the checkpoint") -> dict[str, Any]:
    """Return what the callback `Preprocessing` put into a checkpoint: image shape, normalisation, class names.

    Args:
        checkpoint: The content of the file.
        path: The file, for messages.

    Raises:
        CheckpointError: It is no such description: a field is of another type, length or range.
    """
    states = checkpoint.get("callbacks")
    found = states.get("Preprocessing") if isinstance(states, dict) else None
    try:
        return {} if found is None else check_preparation(found, path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def build_described(options: Mapping[str, Any], path: str | Path) -> nn.Module:
    """Build the network that a checkpoint's hyper-parameters describe, if the file can hold its weights.

    Raises:
        CheckpointError: It is, or is nested too deep.
        ValueError: A class is not trusted, or cannot be built with these options.
    """
    info = {name: options[name] for name in ("backbone", "conv", "num_classes")}
    try:
        with built_within(path):
            return build_network(**info)
    except RecursionError as error:
        raise CheckpointError(f"{path} describes a network that is nested too deep") from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic checkpoint storage for Lightning; loading executes nothing.

    A file is written beside its place, synced to the disk and renamed.

    Attributes:
        defers_removal: A checkpoint that is no longer wanted goes only when `remove_unwanted` is called: once a later
            one that does not refer to it is safe.
    """

    def __init__(self) -> None:
        self.defers_removal = False
        self._unwanted: list[Path] = []

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: The trainer's state.
            path: File to write.
            storage_options: ``{"previous": PATH}`` keeps what ``path`` was before under another name.

        Raises:
            OSError: It cannot be written, a full disk say; the message tells that the earlier ones are whole.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with buffer.getbuffer() as content:
            self.write(content, path, **(storage_options or {}))

    def write(self, content: bytes | memoryview, path: str | Path, previous: str | Path | None = None) -> None:
        """Write the bytes of a checkpoint; arguments and errors are those of `save_checkpoint`."""
        try:
            with atomic_path(path, previous) as unfinished:
                unfinished.write_bytes(content)
        except OSError as error:
            full = "; free some space," if error.errno in (errno.ENOSPC, errno.EDQUOT) else ";"
            raise OSError(
                error.errno,
                f"cannot write a checkpoint of {len(content) / 1e6:.1f} MB: {error.strerror}. The earlier checkpoints "
                f"are whole{full} and start the same command with --resume auto",
                str(path),
            ) from error
        self._unwanted = [unwanted for unwanted in self._unwanted if unwanted != Path(path)]

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint with `read_checkpoint`, whatever ``weights_only`` says.

        Raises:
            CheckpointError: As `read_checkpoint`, or Lightning did not write it.
        """
        content = read_checkpoint(path)
        if "pytorch-lightning_version" not in content:
            raise CheckpointError(f"{path} is not a checkpoint of a Lightning run: it does not say of which version")
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, or remember to remove it later."""
        self._unwanted.append(Path(path))
        if not self.defers_removal:
            self.remove_unwanted()

    def remove_unwanted(self) -> None:
        """Remove the checkpoints whose removal was postponed."""
        while self._unwanted:
            self._unwanted.pop().unlink(missing_ok=True)


def install_io(trainer: Trainer) -> None:
    """Let a trainer write its checkpoints by `AtomicCheckpointIO`.

    Raises:
        ValueError: The user has given it another plugin.
    """
    found = trainer.strategy.checkpoint_io
    if isinstance(found, AtomicCheckpointIO):
        return
    if type(found) is not TorchCheckpointIO:
        raise ValueError(
            f"RunCheckpoint writes with AtomicCheckpointIO, but the trainer has a {type(found).__name__} among its "
            "plugins; leave that out, or use ModelCheckpoint instead of RunCheckpoint"
        )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def check_readable(pl_module: LightningModule) -> None:
    """Check that hyper-parameters stored by `save_hyperparameters` can be read back without executing code.

    Raises:
        ValueError: A hyper-parameter cannot.
    """
    for name, value in pl_module.hparams.items():
        buffer = io.BytesIO()
        try:
            torch.save(value, buffer)
            load_plain(buffer)
        except Exception as error:  # whatever a value's own pickling raises
            raise ValueError(
                f"hyper-parameter `{name}` ({type(value).__name__}) of {type(pl_module).__name__} could not be read "
                f"back from a checkpoint without executing code; leave it out: save_hyperparameters(ignore=[{name!r}])"
            ) from error
