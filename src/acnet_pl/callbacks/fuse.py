"""FuseOnFitEnd: write the fused network when training is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from typing_extensions import deprecated

from acnet_pl.analysis import Inputs, complexity
from acnet_pl.analysis.evaluation import placed
from acnet_pl.callbacks._names import check_file_name
from acnet_pl.callbacks.averages import holds_average, require_averaging
from acnet_pl.callbacks.preprocessing import image_info
from acnet_pl.callbacks.run_checkpoint import RunCheckpoint
from acnet_pl.callbacks.subject import Subject, few, require_whole_parameters
from acnet_pl.checkpoint import check_readable, read_checkpoint
from acnet_pl.deploy import describe_inputs, example_inputs, load_fused, save_fused
from acnet_pl.loggers import log_file, log_scalars
from acnet_pl.loggers.show import unicode_alone
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import FusionError, fuse_model
from acnet_pl.nn.surgery.copying import deep_copy

__all__ = ["FuseOnFitEnd", "FusedNetwork"]


@dataclass(frozen=True)
class FusedNetwork:
    """Files and figures of a fused network.

    Attributes:
        path: The file.
        weights: Which weights were fused: "best" (with the monitored metric) or "last".
        checkpoint: File of those weights; None where they were in memory only.
        parameters_trained: Parameters before fusing.
        parameters_fused: Parameters after fusing.
        macs_trained: Multiply-accumulates for one image before fusing; None where the network's input is not known.
        macs_fused: Multiply-accumulates for one image after fusing; likewise.
    """

    path: str
    weights: str
    checkpoint: str | None
    parameters_trained: int
    parameters_fused: int
    macs_trained: int | None
    macs_fused: int | None

    @property
    @deprecated("folded is now weights; the old name will be removed in the next version")
    def folded(self) -> str:
        """Return `weights`; this is its old name."""
        return self.weights

    @property
    @deprecated("parameters_folded is now parameters_fused; the old name will be removed in the next version")
    def parameters_folded(self) -> int:
        """Return `parameters_fused`; this is its old name."""
        return self.parameters_fused

    @property
    @deprecated("macs_folded is now macs_fused; the old name will be removed in the next version")
    def macs_folded(self) -> int | None:
        """Return `macs_fused`; this is its old name."""
        return self.macs_fused


class FuseOnFitEnd(Callback):
    """Fuse a copy of the trained network when ``fit`` ends and write it as one file.

    The best checkpoint is fused where a ModelCheckpoint monitors a metric (the first that does), else the last
    weights. Rank zero writes; the trained model is left as it is. The file is read back and compared before it counts
    as written. Of an `ImageClassifier` it also holds the architecture, and ``load_fused(path)`` builds the network;
    of any other LightningModule, ``load_fused(path, into=network)`` loads it into the network as it was trained.
    ``result`` holds a `FusedNetwork`.

    Args:
        filename: Name of the file in the run's folder; `acnet_pl.load_fused` reads it.
        enabled: False switches fusing off.
        network: Name of the submodule to fuse, such as "generator". None is the one submodule that holds all
            parameters, or else the LightningModule itself.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it, or
            else does without: batch norms whose place the code alone does not tell are then left, with a warning.

    Raises:
        FusionError: A layer cannot be fused, which is tried before the first step; or the file does not give the fused
            network back.
        ValueError: ``filename`` is no bare name that ends in .safetensors. Before the first step: there is no such
            network, the best checkpoint could not be read, the file could not be written in its place, or an average of
            weights would begin too late.
    """

    def __init__(
        self,
        filename: str = "fused.safetensors",
        enabled: bool = True,
        network: str | None = None,
        inputs: Inputs = None,
    ) -> None:
        check_file_name("fuse.filename", filename, ".safetensors")
        self.filename = filename
        self.enabled = enabled
        self.subject = Subject(network, inputs)
        self.result: FusedNetwork | None = None
        self._folder = Path()
        self._inputs: Any = None  # described
        self._tried = False

    @property
    def state_key(self) -> str:
        """Return a key of its own for each network of a LightningModule."""
        return self._generate_state_key(network=self.subject.network, filename=self.filename)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the run's folder; asking for it is a collective operation and impossible after fit."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        if self.enabled and stage == "fit":
            file = self._folder / self.filename
            if (shown := unicode_alone(str(file))) != str(file):
                raise ValueError(f"{shown} is not UTF-8, as the paths of safetensors have to be; give another folder")
            if file.is_dir():
                raise ValueError(
                    f"{file} is a folder where the fused network is to be written; move it away, or give another "
                    "--fuse.filename"
                )
            if file.exists() and trainer.ckpt_path is None:
                rank_zero_warn(
                    f"{file} is there already, and this training's fused network will replace it; give each training "
                    "a folder of its own (the trainer's default_root_dir, or a logger with versions), or another "
                    "filename"
                )
            require_whole_parameters(trainer, self)
            self.subject.check_name(pl_module)
            if _monitoring(trainer) is not None:
                check_readable(pl_module)
            self._tried = False

    def state_dict(self) -> dict[str, Any]:
        """Return the form of the network's input, for a resumed run that only fuses."""
        return {"inputs": self._inputs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the form of the input."""
        self._inputs = state_dict["inputs"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the network's input, and try fusing before anything is trained."""
        if not self.enabled or self._tried:
            return
        self._tried = True
        require_averaging(trainer)
        inputs: Any = None
        try:
            has_forward = self.subject.has_forward(pl_module)
            inputs = few(self.subject.first_inputs_of(pl_module, batch)) if has_forward else None
        except ValueError:
            if self.subject.inputs is not None:
                raise
        self._inputs = describe_inputs(inputs)
        self.subject.fused(pl_module, inputs)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fuse, write, read back, log."""
        if not self.enabled or not trainer.is_global_zero or trainer.interrupted:
            return
        network, which, checkpoint, averaged = self._weights(trainer, pl_module)
        about = image_info(trainer)
        example = example_inputs(self._inputs)
        if example is None and "image_shape" in about:
            example = torch.randn(2, *about["image_shape"])
        example = placed(network, example)
        fused = fuse_model(network, example)
        info = {"preprocessing": about, "weights": which}
        known = isinstance(pl_module, ImageClassifier) and self.subject.of(pl_module) is pl_module.net
        if known:
            info.update({name: pl_module.hparams[name] for name in ("backbone", "conv", "num_classes")})
        else:
            info["network"] = f"{type(network).__module__}.{type(network).__qualname__}"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = save_fused(fused, self._folder / self.filename, info, inputs=example)
        again = load_fused(path) if known else load_fused(path, into=network)
        written, meant = again.state_dict(), fused.state_dict()
        if written.keys() != meant.keys() or not all(torch.equal(written[name], meant[name]) for name in meant):
            raise FusionError(f"{path} does not give back the fused network; is the disk sound?")
        before, after = _cost(network, example), _cost(fused, example)
        self.result = FusedNetwork(str(path), which, checkpoint, before[0], after[0], before[1], after[1])
        kind = f"{which}, averaged" if averaged else which
        rank_zero_info(f"Fused the {kind} weights into {path}: {before[0]:,} -> {after[0]:,} parameters")
        numbers = {f"fused/{k}": v for k, v in asdict(self.result).items() if isinstance(v, int)}
        log_scalars(trainer, numbers)
        log_file(trainer, path, "fused", "model", {**info, **asdict(self.result)})

    def _weights(self, trainer: Trainer, pl_module: LightningModule) -> tuple[nn.Module, str, str | None, bool]:
        """Return a copy of the network in eval mode on the CPU, and of its weights: kind, checkpoint, if averaged."""
        network = deep_copy(self.subject.of(pl_module)).cpu().eval()
        monitoring = _monitoring(trainer)
        best = getattr(monitoring, "best_model_path", "")
        if not best:
            if monitoring is not None and monitoring.save_top_k != 0:
                rank_zero_warn(
                    f"no checkpoint is the best by {monitoring.monitor}, which was not measured in this training, so "
                    "the last weights are fused; validate within it (trainer.check_val_every_n_epoch, "
                    "trainer.val_check_interval, trainer.limit_val_batches) or train longer"
                )
            saved = [other.last_path for other in trainer.callbacks if isinstance(other, RunCheckpoint)]  # type: ignore[attr-defined]
            return network, "last", saved[0] if saved else None, holds_average(trainer, pl_module)
        prefix = self.subject.prefix(pl_module)
        content = read_checkpoint(best)
        state = content["state_dict"]
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        return network, "best", best, "averaging_state" in content  # which WeightAveraging adds


def _monitoring(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the first ModelCheckpoint that monitors a metric, wherever it stands among others."""
    found = (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    return next((each for each in found if each.monitor is not None), None)


def _cost(network: nn.Module, example: Any) -> tuple[int, int | None]:
    """Return parameters, and multiply-accumulates per sample if they can be counted."""
    if example is not None:
        try:
            cost = complexity(network, example_input=example)
            return cost.parameters, cost.macs
        except Exception as error:  # whatever counting meets in a network's code: the file is what matters
            rank_zero_warn(f"multiply-accumulates are not counted: {type(error).__name__}: {error}")
    return sum(parameter.numel() for parameter in network.parameters()), None
