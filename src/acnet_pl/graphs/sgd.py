"""SGD with momentum and a learning rate that may be a tensor on the device, for use in CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

__all__ = ["Group", "Momentum"]


@dataclass(frozen=True)
class Group:
    """Parameters that share their settings.

    Attributes:
        parameters: Parameters to update.
        lr: Learning rate, before the schedule's factor.
        momentum: Factor on the velocity at each step.
        weight_decay: Added to the gradient, times the parameter.
        nesterov: Look ahead by the momentum.
    """

    parameters: tuple[nn.Parameter, ...]
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool


class Momentum:
    """Optimizer equal to ``torch.optim.SGD`` that never reads its learning rate on the host.

    Args:
        groups: Parameters and settings.

    Attributes:
        velocities: One tensor for each parameter, in the groups' order; zero before the first step.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self.velocities = [
            [torch.zeros_like(p, memory_format=torch.preserve_format) for p in g.parameters] for g in groups
        ]

    @classmethod
    def like(cls, optimizer: Optimizer) -> Momentum:
        """Build one with the parameter groups of an optimizer that has not stepped yet.

        Raises:
            ValueError: It is not SGD, or has settings that change the formula.
        """
        if type(optimizer) is not SGD:
            raise ValueError(f"the optimizer must be torch.optim.SGD, got {type(optimizer).__name__}")
        for group in optimizer.param_groups:
            for name in ("dampening", "maximize", "differentiable"):
                if group[name]:
                    raise ValueError(f"SGD's `{name}` (={group[name]}) must be {type(group[name])(0)}")
        names = ("lr", "momentum", "weight_decay", "nesterov")
        return cls(
            [Group(tuple(group["params"]), **{name: group[name] for name in names}) for group in optimizer.param_groups]
        )

    def to(self, device: torch.device) -> None:
        """Move the velocities; parameters move with their network."""
        self.velocities = [[velocity.to(device) for velocity in group] for group in self.velocities]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float | Tensor) -> None:
        """Update every parameter that has a gradient.

        Args:
            factor: The schedule's factor on all learning rates: a number, or a 0-dimensional tensor on the device.
        """
        for group, velocities in zip(self.groups, self.velocities, strict=True):
            parameters: list[Tensor] = []
            moving: list[Tensor] = []
            update: list[Tensor] = []
            for parameter, velocity in zip(group.parameters, velocities, strict=True):
                if parameter.grad is not None:
                    parameters.append(parameter)
                    moving.append(velocity)
                    update.append(parameter.grad)
            if not parameters:
                continue
            if group.weight_decay:
                update = list(torch._foreach_add(update, parameters, alpha=group.weight_decay))
            if group.momentum:
                torch._foreach_mul_(moving, group.momentum)
                torch._foreach_add_(moving, update)
                update = list(torch._foreach_add(update, moving, alpha=group.momentum)) if group.nesterov else moving
            if isinstance(factor, Tensor):
                torch._foreach_sub_(parameters, torch._foreach_mul(update, group.lr * factor))
            else:
                torch._foreach_add_(parameters, update, alpha=-group.lr * factor)
