"""FuseOnFitEnd: write the folded network when training is over."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from acnet_pl.analysis import complexity
from acnet_pl.callbacks.logging import log_file, log_scalars
from acnet_pl.callbacks.run_checkpoint import RunCheckpoint
from acnet_pl.checkpoint import read_checkpoint
from acnet_pl.deploy import load_fused, save_fused
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import FusionError, fuse_model

__all__ = ["DescribesImages", "FuseOnFitEnd", "FusedNetwork", "image_info"]


@runtime_checkable
class DescribesImages(Protocol):
    """What acnet_pl's data modules say of their images, and others may."""

    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str]


@dataclass(frozen=True)
class FusedNetwork:
    """What folding gave.

    Attributes:
        path: The file.
        folded: Which weights were folded: "best" (with the monitored metric) or "last".
        checkpoint: File of those weights; None where they were in memory only.
        parameters_trained: Parameters before folding.
        parameters_folded: Parameters after folding.
        macs_trained: Multiply-accumulates for one image before folding.
        macs_folded: Multiply-accumulates for one image after folding.
    """

    path: str
    folded: str
    checkpoint: str | None
    parameters_trained: int
    parameters_folded: int
    macs_trained: int
    macs_folded: int


class FuseOnFitEnd(Callback):
    """Fold a copy of the trained network when ``fit`` ends and write it, with its architecture, as one file.

    The best checkpoint is folded where the ModelCheckpoint monitors a metric, else the last weights. Rank zero writes;
    the trained model is left as it is. The file is read back and compared before it counts as written. ``result``
    holds a `FusedNetwork`.

    Args:
        filename: Name of the file in the run's folder; `acnet_pl.load_fused` reads it.
        enabled: False switches folding off.

    Raises:
        FusionError: A layer cannot be folded, or the file does not give the folded network back.
    """

    def __init__(self, filename: str = "fused.safetensors", enabled: bool = True) -> None:
        self.filename = filename
        self.enabled = enabled
        self.result: FusedNetwork | None = None
        self._folder = Path()
        self._image_shape: tuple[int, int, int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the run's folder: asking for it is a collective operation, and too late when fit has ended."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    def state_dict(self) -> dict[str, Any]:
        """The size of the images, for a run that goes on where it is only to be folded."""
        return {"image_shape": self._image_shape and list(self._image_shape)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the size of the images."""
        if state_dict["image_shape"]:
            channels, height, width = state_dict["image_shape"]
            self._image_shape = (channels, height, width)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        """Look at the size of the images, which not every data module tells."""
        if self.enabled and self._image_shape is None:
            _, channels, height, width = batch[0].shape
            self._image_shape = (channels, height, width)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fold, write, read back, log."""
        if not self.enabled or not trainer.is_global_zero or trainer.interrupted:
            return
        if not isinstance(pl_module, ImageClassifier):
            raise TypeError(f"FuseOnFitEnd writes what an ImageClassifier trained, got a {type(pl_module).__name__}")
        network, folded, checkpoint = self._weights(trainer, pl_module)
        about = image_info(trainer)
        channels, height, width = about.get("image_shape", self._image_shape or (3, 32, 32))
        shape = (channels, height, width)
        example = torch.randn(2, *shape, dtype=next(network.parameters()).dtype)
        fused = fuse_model(network, example)
        info = {
            "backbone": pl_module.hparams["backbone"],
            "conv": pl_module.hparams["conv"],
            "num_classes": pl_module.hparams["num_classes"],
            "preprocessing": about,
            "folded": folded,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = save_fused(fused, self._folder / self.filename, info)
        written, meant = load_fused(path).state_dict(), fused.state_dict()
        if written.keys() != meant.keys() or not all(torch.equal(written[name], meant[name]) for name in meant):
            raise FusionError(f"{path} does not give back the folded network; is the disk sound?")
        before, after = complexity(network, shape), complexity(fused, shape)
        self.result = FusedNetwork(
            str(path), folded, checkpoint, before.parameters, after.parameters, before.macs, after.macs
        )
        rank_zero_info(f"Folded the {folded} weights into {path}: {before} -> {after}")
        numbers = {f"fused/{k}": v for k, v in asdict(self.result).items() if isinstance(v, int)}
        log_scalars(trainer, numbers)
        log_file(trainer, path, "fused", "model", {**info, **asdict(self.result)})

    @staticmethod
    def _weights(trainer: Trainer, pl_module: ImageClassifier) -> tuple[nn.Module, str, str | None]:
        """A copy of the network in eval mode on the CPU, which weights it has, and their checkpoint."""
        network = copy.deepcopy(pl_module.net).cpu().eval()
        callback = trainer.checkpoint_callback
        best = getattr(callback, "best_model_path", "") if getattr(callback, "monitor", None) else ""
        if not best:
            saved = [other.last_path for other in trainer.callbacks if isinstance(other, RunCheckpoint)]  # type: ignore[attr-defined]
            return network, "last", saved[0] if saved else None
        state = read_checkpoint(best)["state_dict"]
        network.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        return network, "best", best


def image_info(trainer: Trainer) -> dict[str, Any]:
    """Shape, normalisation and class names of the images of a trainer's data module, as far as it tells."""
    data: object = getattr(trainer, "datamodule", None)
    if not isinstance(data, DescribesImages):
        return {}
    return {
        "image_shape": list(data.image_shape),
        "mean": list(data.mean),
        "std": list(data.std),
        "class_names": list(data.class_names),
    }
