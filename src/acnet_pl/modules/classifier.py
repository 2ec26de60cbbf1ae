"""ImageClassifier: train a backbone built with a given conv builder."""

from __future__ import annotations

import math
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import Self

from acnet_pl.modules.architecture import describe
from acnet_pl.modules.budget import built_within
from acnet_pl.modules.monitors import check_monitor, check_monitors
from acnet_pl.modules.schedules import CosineSchedule, Schedule
from acnet_pl.modules.sync_norms import refuse_lossy_sync
from acnet_pl.modules.untrusted import INSTANTIATOR, check_hyper_parameters
from acnet_pl.nn import ConvBuilder, PlainConv
from acnet_pl.nn.no_blocks import check_blocks
from acnet_pl.nn.precision import full_precision
from acnet_pl.torch_file import load_plain

__all__ = ["ImageClassifier", "default_optimizer"]

default_optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)


class ImageClassifier(LightningModule):
    """Classifier ``backbone(conv, num_classes)`` trained by cross-entropy, with top-1 and top-5 accuracy.

    Batches are ``(images, labels)``: float ``(N, 3, H, W)`` and int64 ``(N,)``. Logs ``train/loss`` of batches, and of
    epochs ``train/mean_loss``, ``train/top1``, ``val/loss``, ``val/top1``, of more than five classes ``val/top5``, and
    the same under ``test/``. Losses and accuracies are those of all processes together; acnet_pl's data modules give
    every evaluation sample to exactly one process, where Lightning's own sampler repeats some to make the shares equal.
    ``test`` computes in float32, so that a network has one accuracy whatever the precision of its training.

    Args:
        backbone: Makes the network from a conv builder and a number of classes: a backbone class or a
            ``functools.partial`` of one.
        conv: Makes the network's convolutions: `PlainConv` for the baseline, `ACBConv` for its ACNet. None is plain.
        num_classes: Classes, linked to the data's on the command line.
        optimizer: Makes the optimizer from parameter groups.
        schedule: A `Schedule`, stepped per optimisation step, or anything that makes a torch learning-rate scheduler
            from an optimizer, stepped per epoch. None is `CosineSchedule` without warm-up. Lightning's
            `ReduceLROnPlateau` watches its ``monitor``; torch's watches ``val/loss``, or ``val/top1`` in mode "max".
        label_smoothing: In [0, 1), for training.
        decay_norm_and_bias: Apply weight decay to batch norms and biases too, as the authors do.
        bias_lr_multiplier: Learning rate of biases relative to that of weights; the authors have 2.
        channels_last: Keep the network in channels-last memory format.
        compile: Compile the network with ``torch.compile``.

    Raises:
        ValueError: An option is out of range, or ``conv`` is a builder of blocks and the network has none.
        TypeError: ``backbone`` is a network that is built already.
    """

    def __init__(
        self,
        backbone: Callable[[ConvBuilder, int], nn.Module],
        conv: ConvBuilder | None = None,
        num_classes: int = 10,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer] = default_optimizer,
        schedule: Schedule | Callable[[Optimizer], LRScheduler] | None = None,
        label_smoothing: float = 0.0,
        decay_norm_and_bias: bool = True,
        bias_lr_multiplier: float = 1.0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` (={label_smoothing}) must be at least 0 and less than 1")
        if isinstance(backbone, nn.Module):
            raise TypeError(
                f"`backbone` is a {type(backbone).__name__} that is built already; give what builds it, a class or "
                "function of a conv builder and a number of classes, such as ImageClassifier(MyNet, ACBConv(), 10), or "
                "train it in a LightningModule of your own: the callbacks work there too"
            )
        conv = PlainConv() if conv is None else conv
        schedule = CosineSchedule() if schedule is None else schedule
        self.save_hyperparameters()
        # Plain data only: a checkpoint is then loadable with weights_only, and rebuilds the same from any kind of use.
        parts = {"backbone": backbone, "conv": conv, "optimizer": optimizer, "schedule": schedule}
        self.hparams.update({name: describe(part) for name, part in parts.items()})
        self.hparams["_instantiator"] = INSTANTIATOR
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.decay_norm_and_bias = decay_norm_and_bias
        self.bias_lr_multiplier = bias_lr_multiplier

        self.net = backbone(conv, num_classes)
        check_blocks(self.net, conv)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        if compile:
            self.net.compile()
        counted = {"top1": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > 5:  # of fewer every image is among the five
            counted["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
        accuracies = MetricCollection(counted)  # type: ignore[arg-type]
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = accuracies.clone(prefix="val/")
        self.test_accuracy = accuracies.clone(prefix="test/")
        self.train_loss = MeanMetric(nan_strategy="disable")  # keeps NaN: a NaN loss makes the mean NaN
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.net(images)
        return logits

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Build the classifier of a checkpoint and load its weights, as Lightning does, executing nothing in the file.

        Args:
            checkpoint_path: Path or open file of a checkpoint.
            *args: As Lightning's.
            **kwargs: As Lightning's. Arguments of the constructor take the place of those in the checkpoint.

        Raises:
            OSError: It cannot be opened.
            ValueError: It is damaged, holds more than plain data and tensors, is of no classifier, or of a class that
                is neither acnet_pl's nor imported by the caller.
        """
        try:
            content = load_plain(checkpoint_path)
        except OSError:
            raise
        except Exception as error:  # a damaged file may fail in any way
            raise ValueError(f"{checkpoint_path} is not a checkpoint that can be read safely ({error})") from error
        check_hyper_parameters(content.get("hyper_parameters", {}) if isinstance(content, dict) else None)
        if hasattr(checkpoint_path, "seek"):
            checkpoint_path.seek(0)
            return super().load_from_checkpoint(checkpoint_path, *args, **{**kwargs, "weights_only": True})
        try:
            with built_within(checkpoint_path):
                return super().load_from_checkpoint(checkpoint_path, *args, **{**kwargs, "weights_only": True})
        except ArgumentError as error:
            raise ValueError(f"{checkpoint_path} cannot be built as described: {error}") from error

    def setup(self, stage: str) -> None:
        """Check that synchronised batch norms keep the network as it is, and that monitored metrics are measured."""
        if stage == "fit":
            refuse_lossy_sync(self.trainer, self.net)
            if type(self) is ImageClassifier:  # a subclass may log more
                check_monitors(self.trainer, self._logged)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights as nn.Module does; raise an error for values of another kind, which would be cast silently.

        Raises:
            ValueError: A tensor is complex, or of integers where the network has floating-point numbers.
        """
        for name, own in self.state_dict().items():
            given = state_dict.get(name, own)
            if isinstance(given, Tensor) and (
                given.is_complex() or given.is_floating_point() != own.is_floating_point()
            ):
                raise ValueError(
                    f"`{name}` is {str(given.dtype).removeprefix('torch.')} in the checkpoint and "
                    f"{str(own.dtype).removeprefix('torch.')} in the network; give a checkpoint of this network"
                )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of one batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_top1(logits, labels)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)  # the mean over the batches of all processes
        self.train_loss.update(loss.detach(), len(images))
        self.log("train/mean_loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def on_validation_start(self) -> None:
        """Give all processes the same batch-norm statistics, so that one network is evaluated."""
        self._share_statistics()

    def on_test_start(self) -> None:
        """Do the same as `on_validation_start`."""
        self._share_statistics()

    def on_predict_start(self) -> None:
        """Do the same as `on_validation_start`."""
        self._share_statistics()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count loss and accuracies of one validation batch."""
        self._evaluate(batch, "val", self.val_loss, self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Count loss and accuracies of one test batch, in float32 whatever the Trainer's mixed precision.

        Returns:
            The logits ``(N, num_classes)``, for callbacks; None of an empty batch.
        """
        with full_precision(batch[0].device):
            return self._evaluate(batch, "test", self.test_loss, self.test_accuracy)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return the class probabilities ``(N, num_classes)`` of one batch."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.forward(images).float().softmax(dim=1)

    def make_optimizer(self) -> Optimizer:
        """Build the optimizer on groups of kernels, norm scales and biases."""
        optimizer = self.optimizer_factory(self._parameter_groups())
        for group in optimizer.param_groups:
            if group["kind"] != "kernel" and not self.decay_norm_and_bias and "weight_decay" in group:
                group["weight_decay"] = 0.0
            if group["kind"] == "bias":
                group["lr"] *= self.bias_lr_multiplier
        return optimizer

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""
        optimizer = self.make_optimizer()
        if isinstance(self.schedule, Schedule):
            scheduler: LRScheduler
            scheduler, interval = self._per_step(optimizer, self.schedule), "step"
        else:
            scheduler, interval = self.schedule(optimizer), "epoch"
        how: LRSchedulerConfigType = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):  # torch's own does not know what it watches, Lightning's does
            watched = getattr(scheduler, "monitor", "val/top1" if scheduler.mode == "max" else "val/loss")
            if type(self) is ImageClassifier:
                check_monitor(self.trainer, watched, self._logged, type(scheduler).__name__)
            how["monitor"] = watched
        return {"optimizer": optimizer, "lr_scheduler": how}

    @property
    def _logged(self) -> list[str]:
        """Return the names of the metrics that ``fit`` logs."""
        return ["train/loss", "train/mean_loss", "train/top1", "val/loss", *(str(name) for name in self.val_accuracy)]

    def _share_statistics(self) -> None:
        """Give all processes the first one's buffers, which are those that checkpoints have."""
        if self.trainer.world_size > 1 and dist.is_initialized():
            for buffer in self.net.buffers():
                dist.broadcast(buffer, src=0)

    def _evaluate(
        self, batch: tuple[Tensor, Tensor], prefix: str, mean_loss: MeanMetric, accuracy: MetricCollection
    ) -> Tensor | None:
        images, labels = batch
        logits: Tensor | None = None
        if len(labels):  # none are left where all are unreadable and may be skipped
            logits = self(images)
            mean_loss(F.cross_entropy(logits, labels), len(labels))
            accuracy(logits, labels)
        self.log(f"{prefix}/loss", mean_loss, on_step=False, on_epoch=True)
        for name, metric in accuracy.items():
            self.log(name, metric, on_step=False, on_epoch=True, prog_bar=name.endswith("top1"))
        return logits

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups: dict[str, list[nn.Parameter]] = {"kernel": [], "norm": [], "bias": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kind = "bias" if name.endswith("bias") else "norm" if parameter.ndim <= 1 else "kernel"
                groups[kind].append(parameter)
        return [{"params": parameters, "kind": kind} for kind, parameters in groups.items() if parameters]

    def _per_step(self, optimizer: Optimizer, schedule: Schedule) -> LambdaLR:
        if self.trainer.limit_train_batches == 0:
            raise ValueError(
                "trainer.limit_train_batches is 0, which leaves no batches to train on; leave it out for all of them"
            )
        total_steps = self.trainer.estimated_stepping_batches  # limited by max_epochs, max_steps or both
        if not 0 <= total_steps < math.inf:
            raise ValueError(
                f"{type(schedule).__name__} needs to know how long training is, got an endless one; set "
                "trainer.max_epochs or trainer.max_steps"
            )
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        # An epoch of an endless data set is the whole training.
        steps = total_steps if batches == math.inf else math.ceil(batches / self.trainer.accumulate_grad_batches)
        steps_per_epoch = max(1.0, steps)
        epochs = total_steps / steps_per_epoch
        return LambdaLR(optimizer, lambda step: schedule.factor(step, steps_per_epoch, epochs))
