"""ConfusionMatrix: log which classes are confused, with some test images and predictions."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from acnet_pl.analysis import Inputs, labels_of, plot_confusion, plot_predictions
from acnet_pl.analysis.evaluation import evaluating
from acnet_pl.analysis.inputs import sample_count, tensors_of
from acnet_pl.callbacks.preprocessing import image_info
from acnet_pl.callbacks.subject import Subject
from acnet_pl.loggers import log_figure, log_table
from acnet_pl.nn.surgery.running import call

__all__ = ["ConfusionMatrix"]

_MOST_CLASSES = 100  # in a picture of the matrix


class ConfusionMatrix(Callback):
    """Log the confusion matrix of ``test``, the most confused classes, and some images with predictions.

    Every logger of the trainer gets ``test/confusion`` (a picture, up to 100 classes), ``test/confused`` (a table) and
    ``test/pictures``. Networks that are no classifiers have none. ``result`` holds the last matrix ``(class,
    predicted)``, over all processes.

    Args:
        pictures: Images shown, the first of the test set.
        enabled: False switches it off.
        network: Name of the submodule that gives the logits, used where ``test_step`` does not return them.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it.
    """

    def __init__(
        self, pictures: int = 16, enabled: bool = True, network: str | None = None, inputs: Inputs = None
    ) -> None:
        self.pictures = pictures
        self.enabled = enabled
        self.subject = Subject(network, inputs)
        self.result: Tensor | None = None
        self._counts: Tensor | None = None
        self._shown: list[tuple[Tensor, int, int]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts."""
        self._counts, self._shown = None, []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count one batch."""
        labels = labels_of(batch)
        if not self.enabled or labels is None or not len(labels):
            return
        logits = outputs if isinstance(outputs, Tensor) else self._evaluate(pl_module, batch)
        if logits is None or logits.dim() != 2 or len(logits) != len(labels):
            return
        classes, predicted = logits.shape[1], logits.argmax(1)
        if self._counts is None:
            self._counts = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
        known = (labels >= 0) & (labels < classes)
        pairs = labels[known] * classes + predicted[known]
        self._counts += torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
        if (missing := self.pictures - len(self._shown)) > 0:
            images = next((x for x in tensors_of(batch) if x.dim() == 4 and x.is_floating_point()), None)
            if images is not None:
                cells = zip(images[:missing].float().cpu(), labels.tolist(), predicted.tolist(), strict=False)
                self._shown += cells

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the counts of all processes."""
        if not self.enabled:
            return
        counts = None if self._counts is None else self._counts.cpu()
        if trainer.world_size > 1:
            shares: list[Tensor | None] = [None] * trainer.world_size
            dist.all_gather_object(shares, counts)
            found = [share for share in shares if share is not None]
            counts = torch.stack(found).sum(0) if found else None
        self.result, self._counts = counts, None
        if counts is None or not trainer.is_global_zero or not trainer.loggers:
            return
        about = image_info(trainer)
        names = list(about.get("class_names") or range(len(counts)))
        names = [_text(name) for name in (names if len(names) == len(counts) else range(len(counts)))]
        if len(counts) <= _MOST_CLASSES:
            log_figure(trainer, "test/confusion", plot_confusion(counts, names))
        wrong = counts.clone().fill_diagonal_(0)
        most = wrong.flatten().topk(min(20, wrong.numel()))
        rows = [
            [names[index // len(counts)], names[index % len(counts)], count]
            for index, count in zip(most.indices.tolist(), most.values.tolist(), strict=True)
            if count
        ]
        log_table(trainer, "test/confused", ["class", "predicted", "images"], rows)
        if self._shown:
            images = torch.stack([image for image, *_ in self._shown if image.shape == self._shown[0][0].shape])
            if "mean" in about:
                mean, std = (torch.tensor(about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
                images = images * std + mean
            titles = [(names[label], names[guess]) for _, label, guess in self._shown]
            log_figure(trainer, "test/pictures", plot_predictions(images, titles))
        self._shown = []

    def _evaluate(self, pl_module: LightningModule, batch: Any) -> Tensor | None:
        """Return the network's output if it can be called and returns one tensor."""
        if not self.subject.has_forward(pl_module):
            return None
        network = self.subject.of(pl_module)
        try:
            inputs = self.subject.inputs_of(pl_module, batch)
        except ValueError:
            return None
        if not sample_count(inputs):
            return None
        with evaluating(network):
            output = call(network, inputs)
        return output if isinstance(output, Tensor) else None


def _text(name: object) -> str:
    """Return a class name with undecodable bytes (of a folder's name) shown as "?"."""
    return str(name).encode("utf-8", "replace").decode("utf-8")
