"""Evaluate a model and restore its state: batches, modes, precision, top-k accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from acnet_pl.nn.precision import full_precision

__all__ = [
    "Batches",
    "accuracy",
    "count_correct",
    "device_of",
    "evaluating",
    "full_precision",
    "labelled",
    "logits_of",
    "placed",
    "require_logits",
    "require_samples",
    "unpack",
]

Batches = Iterable[Sequence[Tensor]]  # of (images, labels); see `unpack`


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into eval mode without gradients within this context; restore every module's mode after it."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def own_draws(model: nn.Module) -> Iterator[None]:
    """Restore the random state when this context ends, so that two evaluations draw the same numbers."""
    devices = list({tensor.device for tensor in model.parameters() if tensor.is_cuda})
    with torch.random.fork_rng(devices):
        yield


def unpack(batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the images ``(N, C, H, W)`` of a batch, as the model takes them, and its labels ``(N,)``, if any.

    Raises:
        ValueError: The batch is neither images nor (images, labels), or its images are not normalised floats.
    """
    parts = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    if not (1 <= len(parts) <= 2 and all(isinstance(part, Tensor) for part in parts)):
        raise ValueError(
            f"a batch must be (images, labels), got {len(parts)} parts; of an acnet_pl data module take "
            'eval_batches("test"), which normalises the images and leaves out their indices'
        )
    images, labels = parts[0], parts[1] if len(parts) == 2 else None
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be floats (N, C, H, W) normalised as the model expects them, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be class indices ({len(images)},), one per image, got {tuple(labels.shape)}; soft labels "
            "(mixup) have no accuracy"
        )
    return images, labels


def labelled(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return images and labels as `unpack` does; labels are required.

    Raises:
        ValueError: As `unpack`, or the batch has no labels.
    """
    images, labels = unpack(batch)
    if labels is None:
        raise ValueError("a batch must be (images, labels), got images alone: accuracy needs labels")
    return images, labels


Nested = TypeVar("Nested")


def placed(model: nn.Module, inputs: Nested) -> Nested:
    """Move inputs, nested or not, to the device of the model's first floating-point parameter or buffer.

    Floating-point tensors get its dtype as well.
    """
    like = next((tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point()), None)

    def move(tensor: Tensor) -> Tensor:
        assert like is not None
        return tensor.to(like if tensor.is_floating_point() else like.device)

    moved: Nested = inputs if like is None else apply_to_collection(inputs, Tensor, move)
    return moved


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU where it has none."""
    first = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if first is None else first.device


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits ``(N, num_classes)`` for images ``(N, C, H, W)``, moved to the model's device and dtype.

    Raises:
        ValueError: The model gives something else, such as a tuple or a feature map.
    """
    return require_logits(model(placed(model, images)), len(images))


def require_logits(output: Any, samples: int) -> Tensor:
    """Return a model's output if it is logits ``(N, num_classes)`` for N samples.

    Raises:
        ValueError: It is something else, such as a tuple or a feature map.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != samples:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the model must give logits (N, num_classes) for N = {samples} images, got {got}; wrap it in a module "
            "that returns the logits alone"
        )
    return output


def count_correct(logits: Tensor, labels: Tensor, topk: Sequence[int] = (1,)) -> Tensor:
    """Count the labels that are among the k largest logits, for every k.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class indices, ``(N,)``.
        topk: The ks. A k beyond the number of classes counts as all classes: every label is found.

    Returns:
        Counts, int64, ``(len(topk),)``.

    Examples:
        >>> count_correct(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), torch.tensor([2, 0]), topk=(1, 2)).tolist()
        [1, 2]
    """
    largest = min(max(topk), logits.shape[1])
    hits = logits.topk(largest, dim=1).indices == labels.to(logits.device)[:, None]
    hits &= ~logits.isnan().any(1, keepdim=True)  # NaN logits predict nothing
    return torch.stack([hits[:, :k].sum() for k in topk])


def accuracy(model: nn.Module, batches: Batches, topk: int = 1) -> float:
    """Return the top-k accuracy, 0 to 1, in eval mode; the model is restored.

    Args:
        model: From images ``(N, C, H, W)`` to logits ``(N, num_classes)``.
        batches: Pairs of normalised images and labels ``(N,)``; moved to the model's device and dtype.
        topk: k.

    Raises:
        ValueError: There are no images, or a batch is not (images, labels).
    """
    counts: list[Tensor] = []  # kept on the device: one synchronisation at the end
    samples = 0
    with evaluating(model):
        for batch in batches:
            images, labels = labelled(batch)
            if not len(images):
                continue
            counts.append(count_correct(logits_of(model, images), labels, (topk,)))
            samples += len(images)
    return sum(int(count) for count in counts) / require_samples(samples)


def require_samples(samples: int) -> int:
    """Return the number of samples, if it is not 0.

    Raises:
        ValueError: It is 0.
    """
    if samples == 0:
        raise ValueError("there are no images in `batches`: it is empty, or an iterator that was already used up")
    return samples
