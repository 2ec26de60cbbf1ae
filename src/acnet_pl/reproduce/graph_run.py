"""GraphRun: train one planned run by `acnet_pl.graphs`, with the files that ``fit`` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from acnet_pl.analysis import compare, complexity, rotation_accuracy
from acnet_pl.atomic import atomic_path, remove_unfinished
from acnet_pl.callbacks.equivalence import EquivalenceError
from acnet_pl.callbacks.fuse import FusedNetwork
from acnet_pl.checkpoint import AtomicCheckpointIO, CheckpointError, read_checkpoint
from acnet_pl.config.run_folder import MARKER, Claim, make_run_folder, write_config
from acnet_pl.data.fingerprint import fingerprint
from acnet_pl.data.in_memory import InMemoryDataModule
from acnet_pl.data.training_loader import TrainingSampler
from acnet_pl.deploy import save_fused
from acnet_pl.graphs import Batching, DeviceImages, Momentum, NetworkTraining, evaluate
from acnet_pl.loggers import MetricsCSV
from acnet_pl.modules import ImageClassifier
from acnet_pl.modules.schedules import Schedule
from acnet_pl.nn import fuse_model
from acnet_pl.nn.precision import full_precision
from acnet_pl.provenance import EVALUATED, versions
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.settings import FitObjects

__all__ = ["GraphRun", "ImageSets"]

_CHECKPOINT, _PREVIOUS, _LAST = "graphs.ckpt", "graphs.previous.ckpt", "last.ckpt"
_TOLERANCE = 1e-4  # of the fused network, as EquivalenceCheck has it for float32 networks


class ImageSets:
    """Data sets on one device, each loaded once.

    Args:
        device: Where they are kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sets: dict[str, dict[str, DeviceImages]] = {}
        self._fingerprints: dict[str, str | None] = {}

    def of(self, data: InMemoryDataModule, config: Mapping[str, Any]) -> dict[str, DeviceImages]:
        """Return the "train", "val" and "test" images of a data module.

        Args:
            data: The module.
            config: Its configuration; the seed decides nothing here.
        """
        key = _without_seed(config)
        if key not in self._sets:
            data.prepare_data()
            data.setup("fit")
            data.setup("test")
            sets = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
            self._sets[key] = {
                name: DeviceImages.of(images, data.mean, data.std, self.device) for name, images in sets.items()
            }
            self._fingerprints[key] = fingerprint(data)
        return self._sets[key]

    def fingerprint_of(self, config: Mapping[str, Any]) -> str | None:
        """Return the `fingerprint` of a data module that `of` has loaded."""
        return self._fingerprints[_without_seed(config)]


def _without_seed(config: Mapping[str, Any]) -> str:
    options = {name: value for name, value in config["init_args"].items() if name != "seed"}
    return json.dumps([config["class_path"], options], sort_keys=True, default=str)


class GraphRun:
    """Run that `NetworkTraining` trains, in a folder like ``fit``'s.

    ``metrics.csv``, ``config.yaml``, ``fused.safetensors``, ``summary.json`` and, in the end, ``checkpoints/last.ckpt``
    are as ``fit`` writes them; ``checkpoints/graphs.ckpt`` is what a killed run goes on from. What callbacks log during
    training is not in ``metrics.csv``. The seconds in ``summary.json`` are from timed steps of the network alone.

    Args:
        planned: The run.
        objects: The model and data of its settings.
        sets: Images.
        autocast: Type of autocast; None is none.

    Raises:
        ValueError: The optimizer, the schedule, the data or the network is not one that can be trained so.
    """

    def __init__(self, planned: PlannedRun, objects: FitObjects, sets: ImageSets, autocast: torch.dtype | None) -> None:
        if not isinstance(objects.data, InMemoryDataModule):
            raise ValueError(
                f"--engine graphs keeps the images on the device, which {type(objects.data).__name__} does not"
            )
        self.planned = planned
        self.objects = objects
        self.data = objects.data
        self.sets = sets.of(self.data, planned.config["data"])
        self.fingerprint = sets.fingerprint_of(planned.config["data"])
        self.model: ImageClassifier = objects.model
        self.training = self._training(autocast)
        self.folder, self._claim = self._open_folder()
        self._csv = MetricsCSV(self.folder)
        self._go_on()

    def log_epoch(self, seconds: float, validation: Mapping[str, float] | None) -> None:
        """Write the figures of an epoch to ``metrics.csv``.

        Args:
            seconds: Duration of the epoch, side by side with the other networks.
            validation: Result of `evaluate` on the validation images.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        epoch, steps = self.training.epoch, self.training.steps
        losses, accuracy = self.training.end_epoch()
        every = int(self.planned.config["trainer"]["log_every_n_steps"] or 50)
        for number, loss in enumerate(losses, epoch * steps + 1):
            if number % every == 0:
                row: dict[str, Tensor | float] = {"lr": self.training.learning_rates(number - 1)[0]}
                row |= {"epoch": epoch, "train/loss": loss}
                self._csv.log_metrics(row, step=number - 1)
        last = (epoch + 1) * steps - 1
        if validation is not None:
            figures = {f"val/{name}": value for name, value in validation.items()}
            self._csv.log_metrics({"epoch": epoch, **figures}, step=last)
        progress: dict[str, Tensor | float] = {"train/mean_loss": fmean(map(float, losses)), "train/top1": accuracy}
        self._csv.log_metrics({"epoch": epoch, **progress, "time/side_by_side": seconds}, step=last)
        self._csv.save()

    def validate(self) -> dict[str, float]:
        """Evaluate on the validation images."""
        return evaluate(self.training.network, self.sets["val"], self.data.eval_batch_size, self.training.autocast)

    def checkpoint(self) -> Path:
        """Write the state to resume from, keeping the previous one."""
        folder = self.folder / "checkpoints"
        AtomicCheckpointIO().save_checkpoint(
            self._content(), folder / _CHECKPOINT, storage_options={"previous": folder / _PREVIOUS}
        )
        return folder / _CHECKPOINT

    def finish(self, engine: Mapping[str, Any]) -> dict[str, Any]:
        """Write the checkpoint of the trained network, fuse it, compare, test, and write ``summary.json``.

        Args:
            engine: What to say of how it was trained, with ``step_seconds_alone`` if it was timed.

        Returns:
            The summary.

        Raises:
            EquivalenceError: The fused network differs from the trained one.
        """
        checkpoints = self.folder / "checkpoints"
        AtomicCheckpointIO().save_checkpoint(self._content(), checkpoints / _LAST)
        network = self.training.network
        size = self.data.eval_batch_size
        summary: dict[str, Any] = {
            "folder": str(self.folder),
            "command": sys.orig_argv[1:],
            "engine": dict(engine),
            "backbone": self.model.hparams["backbone"],
            "conv": self.model.hparams["conv"],
            "epochs": self.training.epoch,
            "evaluated": EVALUATED,
            "metrics": {f"val/{name}": value for name, value in self.validate().items()},
            "versions": versions(),
            "data_fingerprint": self.fingerprint,
        }
        if (alone := engine.get("step_seconds_alone")) is not None:
            summary["seconds_per_epoch"] = alone * self.training.steps
            summary["training_seconds"] = alone * self.training.steps * self.training.epoch
        with full_precision(self.training.device):  # a network has one test accuracy, however it was trained
            tested = evaluate(network, self.sets["test"], size)
        summary["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
        fused = fuse_model(network.eval())
        if self.objects.equivalence.enabled:
            allowed = self.objects.equivalence.tolerance or _TOLERANCE
            equivalence = compare(network, fused, self.sets["val"].batches(size))
            summary["equivalence"] = equivalence.as_dict()
            if not equivalence.max_rel_difference <= allowed:
                raise EquivalenceError(f"the fused network differs from the trained one: {equivalence}")
        if self.objects.rotation.enabled:
            with full_precision(self.training.device):
                rotation = rotation_accuracy(fused, self.sets["test"].batches(size)).as_dict()
            summary["rotation"] = rotation
            summary["metrics"] |= {f"rotation/{name}": v for name, v in rotation.items() if name != "samples"}
        if self.objects.fuse.enabled:
            summary["fused"] = asdict(self._write_fused(fused.cpu(), network.cpu()))
        with atomic_path(self.folder / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        for name in (_CHECKPOINT, _PREVIOUS):
            (checkpoints / name).unlink(missing_ok=True)
        self._claim.finish()
        return summary

    def _training(self, autocast: torch.dtype | None) -> NetworkTraining:
        model, data, images = self.model, self.data, self.sets["train"]
        schedule, epochs = model.schedule, self.planned.epochs
        if not isinstance(schedule, Schedule):
            raise ValueError(f"--engine graphs needs a schedule of acnet_pl's, got {schedule!r}; use --engine fit")
        steps = len(images) // data.batch_size
        sampler = TrainingSampler(images, num_replicas=1, rank=0, seed=data.seed, drop_last=True)

        def order(epoch: int) -> Tensor:
            sampler.set_epoch(epoch)
            return torch.tensor(list(sampler.whole_pass()))

        return NetworkTraining(
            model.net,
            Momentum.like(model.make_optimizer()),
            lambda step: schedule.factor(step, float(steps), float(epochs)),
            images,
            Batching(order, data.seed, data.batch_size, data.pad, data.flip),
            epochs=epochs,
            label_smoothing=model.label_smoothing,
            autocast=autocast,
        )

    def _open_folder(self) -> tuple[Path, Claim]:
        """Continue in the folder of an unfinished run of this kind, or make a new one."""
        found = self.planned.folder()
        if found is not None and (found / MARKER).is_file() and not (found / "checkpoints" / _LAST).exists():
            claim = Claim.of(found)
            if claim is not None:
                remove_unfinished(found)
                return found, claim
        folder = make_run_folder(str(self.planned.runs_dir), self.planned.run.name)
        write_config(folder, self.objects.config)
        claim = Claim.of(folder)
        if claim is None:
            raise ValueError(f"a living process is at {folder}; wait for it, or end it")
        return folder, claim

    def _go_on(self) -> None:
        """Load the newest whole checkpoint, if there is one."""
        rows = 0
        for name in (_CHECKPOINT, _PREVIOUS):
            path = self.folder / "checkpoints" / name
            if not path.exists():
                continue
            try:
                content = read_checkpoint(path)
            except CheckpointError:
                continue  # the one before it is whole
            state = content["graphs"]
            network = {key.removeprefix("net."): value for key, value in content["state_dict"].items()}
            self.training.load_state_dict({"network": network, **state["training"]})
            rows = state["rows"]
            break
        self._csv.rewind(rows)

    def _content(self) -> dict[str, Any]:
        state = self.training.state_dict()
        return {
            "state_dict": {f"net.{name}": tensor for name, tensor in state.pop("network").items()},
            "hyper_parameters": dict(self.model.hparams),
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": self.training.epoch,
            "global_step": self.training.epoch * self.training.steps,
            "graphs": {"training": state, "rows": self._csv.rows()},
        }

    def _write_fused(self, fused: torch.nn.Module, network: torch.nn.Module) -> FusedNetwork:
        data, options = self.data, self.model.hparams
        about = {"image_shape": list(data.image_shape), "mean": list(data.mean), "std": list(data.std)}
        info = {name: options[name] for name in ("backbone", "conv", "num_classes")}
        info |= {"preprocessing": {**about, "class_names": list(data.class_names)}, "weights": "last"}
        path = save_fused(fused, self.folder / self.objects.fuse.filename, info)
        before, after = complexity(network, data.image_shape), complexity(fused, data.image_shape)
        last = str(self.folder / "checkpoints" / _LAST)
        return FusedNetwork(str(path), "last", last, before.parameters, after.parameters, before.macs, after.macs)
