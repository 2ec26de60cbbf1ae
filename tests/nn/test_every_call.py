"""What comes out equals the model it came from at every call, or is left as it is with a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import conversion_report, convert_to_acnet, fuse_model

Randomise = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def same(a: nn.Module, b: nn.Module, *args: Any) -> bool:
    return torch.allclose(a(*args), b(*args), rtol=1e-10, atol=1e-12)


class Domains(nn.Module):
    """Norms of several domains, chosen by an argument, beside a pair that nothing parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.last = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor, domain: int = 0) -> Any:
        return self.last(self.norms[domain](self.conv(x)).relu())


def test_norm_that_an_argument_chooses_stays_with_a_word(randomise: Randomise) -> None:
    model = randomise(Domains().double()).eval()
    with pytest.warns(
        UserWarning, match=r"`conv` and its batch norm are left.*depends on the argument `domain`"
    ) as said:
        fused = fuse_model(model)
    assert len(said) == 1
    acnet = convert_to_acnet(model, init="preserve")
    assert [layer.norm for layer in conversion_report(acnet).layers] == [None, "last.1"]
    with pytest.warns(UserWarning, match="`conv`"):
        fused_acnet = fuse_model(acnet)
    for domain in (0, 1):
        for network in (fused, acnet, fused_acnet):
            assert same(model, network, X, domain)
    assert isinstance(fused.get_submodule("last.1"), nn.Identity)


class Keeping(nn.Module):
    """Makes a grid at the first call and keeps it."""

    grid: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.conv(x))
        if self.grid is None:
            self.grid = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype) + torch.zeros_like(x)
        return x * self.grid


@pytest.mark.parametrize("called_before", [False, True])
def test_state_kept_from_the_first_call_is_no_obstacle(called_before: bool, randomise: Randomise) -> None:
    model = randomise(Keeping().double()).eval()
    if called_before:
        model(X)
    fused, acnet = fuse_model(model), convert_to_acnet(model, init="preserve")
    assert isinstance(fused.norm, nn.Identity)
    assert conversion_report(acnet).layers[0].norm == "norm"
    assert (model.grid is None) == (not called_before)
    for network in (fused, acnet, fuse_model(acnet)):
        assert network is not model
        assert same(model, network, X)
        assert same(model, network, 2 * X)


def test_output_that_a_module_keeps_belongs_to_no_pair(randomise: Randomise) -> None:
    class Remembering(Keeping):
        def forward(self, x: Tensor) -> Any:
            self.features = self.conv(x)
            return self.norm(self.features)

    model = randomise(Remembering().double()).eval()
    for fused in (fuse_model(model), fuse_model(model, X)):
        assert same(model, fused, X)
        assert torch.equal(model.features, fused.features)  # type: ignore[arg-type]


def test_detector_folds_in_its_parts() -> None:
    model = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    assert not any(isinstance(module, _BatchNorm) for module in fuse_model(model).modules())
