"""Compute loss and accuracies of a network on all images of a set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from acnet_pl.analysis.evaluation import count_correct, evaluating, require_samples
from acnet_pl.graphs.images import DeviceImages

__all__ = ["evaluate"]


def evaluate(
    network: nn.Module, images: DeviceImages, batch_size: int, autocast: torch.dtype | None = None
) -> dict[str, float]:
    """Return loss and accuracies in eval mode; the network's mode is restored.

    Args:
        network: From images ``(N, C, H, W)`` to logits ``(N, num_classes)``, on the images' device.
        images: Images to evaluate on.
        batch_size: Images in a batch.
        autocast: Type of autocast; None is none.

    Returns:
        ``loss``, the mean cross-entropy, and ``top1`` and ``top5``, 0 to 1.

    Raises:
        ValueError: There are no images.
    """
    device = images.labels.device
    count = require_samples(len(images))
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    with evaluating(network), torch.autocast(device.type, autocast, enabled=autocast is not None):
        for batch, labels in images.batches(batch_size):
            logits = network(batch)
            loss += F.cross_entropy(logits, labels) * len(labels)
            correct += count_correct(logits, labels, (1, 5))
    top1, top5 = (correct / count).tolist()
    return {"loss": float(loss) / count, "top1": top1, "top5": top5}
