"""Copies of networks."""

from __future__ import annotations

import copy

from torch import Tensor, nn

__all__ = ["deep_copy", "light_copy"]


def deep_copy(model: nn.Module) -> nn.Module:
    """A copy of its own.

    Tensors that modules compute and keep (the weight of a pruned layer) are copied without their history, for which
    ``copy.deepcopy`` would refuse them.
    """
    return copy.deepcopy(model, _computed(model))


def light_copy(model: nn.Module) -> nn.Module:
    """A copy to evaluate without gradient at will: of its own but for the parameters, which it shares."""
    return copy.deepcopy(model, {**_computed(model), **{id(parameter): parameter for parameter in model.parameters()}})


def _computed(model: nn.Module) -> dict[int, Tensor]:
    values = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}
