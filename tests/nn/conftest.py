"""What tests of whole networks need: trained-looking batch norms and a relative difference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from acnet_pl.nn import explicit_branches


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """``randomise(model)`` gives batch norms random statistics and affine values, mild enough for deep nets."""

    def give(model: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                if norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.normal_(0, 0.2, generator=generator)
                    norm.running_var.uniform_(0.5, 2.0, generator=generator)
                if norm.affine:
                    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
                    nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
        return model

    return give


@pytest.fixture(scope="session")
def difference() -> Callable[[nn.Module, nn.Module, Tensor], float]:
    """``difference(a, b, x)`` is max|a(x) - b(x)| / max|a(x)| over all outputs, blocks evaluated branch by branch."""

    def measure(expected: nn.Module, actual: nn.Module, x: Tensor) -> float:
        with torch.no_grad(), explicit_branches(expected), explicit_branches(actual):
            pairs = zip(tree_leaves(expected(x)), tree_leaves(actual(x)), strict=True)
            return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)

    return measure
