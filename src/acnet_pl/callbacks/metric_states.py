"""Save and restore the torchmetrics of a module in mid-epoch."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric

__all__ = ["load_metric_states", "metric_states"]


def metric_states(module: LightningModule) -> dict[str, Any]:
    """Return the state of every torchmetric that was updated, over all processes."""
    states = {}
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and metric.update_called:
            with metric.sync_context():
                state = {key: _copied(value) for key, value in metric.metric_state.items()}
            states[name] = {"count": metric.update_count, "state": state}
    return states


def load_metric_states(module: LightningModule, states: dict[str, Any]) -> None:
    """Restore the states that `metric_states` returned."""
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and name in states:
            for key, value in states[name]["state"].items():
                setattr(metric, key, _copied(value, metric.device))
            metric._update_count = states[name]["count"]


def _copied(value: Tensor | list[Tensor], device: torch.device | None = None) -> Tensor | list[Tensor]:
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    return [item.detach().to(device, copy=True) for item in value]
