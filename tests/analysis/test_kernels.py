import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from acnet_pl.analysis import kernel_magnitude
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, fuse_model


def _by_loops(kernels: list[np.ndarray]) -> np.ndarray:
    """Eq. 9 and 10, letter by letter."""
    size = kernels[0].shape[-1]
    average = np.zeros((size, size))
    for kernel in kernels:
        total = np.zeros((size, size))
        for filter_ in kernel:
            for plane in filter_:
                total += np.abs(plane)
        average += total / total.max()
    return average / len(kernels)


@pytest.mark.parametrize("conv", [PlainConv(), ACBConv(), ACBConv(branch_norm=False), ACBConv(position="border")])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("training", [True, False])
def test_equations_9_and_10_on_the_fused_kernels(
    small_net: Callable[..., nn.Module], conv: ConvBuilder, size: int, training: bool
) -> None:
    net = small_net(conv)
    fused = fuse_model(net)
    convs = {"0": 5, "2": 3, "5": 3}
    kernels = [
        fused.get_parameter(f"{name}.weight").detach().double().numpy() for name, k in convs.items() if k == size
    ]
    for model in (net.train(training), fused):
        result = kernel_magnitude(model, size)
        assert list(result.layers) == [name for name, k in convs.items() if k == size]
        assert result.kernel_size == size
        np.testing.assert_allclose(np.array(result.average), _by_loops(kernels), rtol=1e-5)
        np.testing.assert_allclose(np.array(list(result.layers.values())[-1]), _by_loops(kernels[-1:]), rtol=1e-5)
    assert net.training == training


def test_sums_and_shares_by_hand() -> None:
    conv = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, -2, 1], [3, 8, 3], [1, -4, 2]]).expand(2, 1, 3, 3))
    result = kernel_magnitude(nn.Sequential(conv))
    assert result.average == ((0.125, 0.25, 0.125), (0.375, 1.0, 0.375), (0.125, 0.5, 0.25))
    assert result.total("skeleton") == 20 / 8
    assert result.total("corner") == 5 / 8
    assert result.total("border", "0") == (1 + 3 + 2 + 4 + 1) / 8
    assert result.total("top_left") == (1 + 2 + 3 + 8) / 8
    assert result.share("skeleton") == pytest.approx(20 / 25)
    assert result.share("corner", "0") == pytest.approx(5 / 25)
    assert str(result).splitlines()[:2] == [
        "average magnitude of the 3×3 kernels of 1 layers",
        "  0.125  0.250  0.125",
    ]
    assert "skeleton 2.500 (80.0%), corner 0.625 (20.0%)" in str(result)
    numbers = json.loads(json.dumps(result.as_dict()))
    assert numbers["average"][1] == [0.375, 1.0, 0.375]
    assert numbers["shares"]["skeleton"] == pytest.approx(0.8)


def test_plain_1x1_even_and_depthwise_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, (1, 3)))
    assert list(kernel_magnitude(net).layers) == ["2"]


def test_a_shared_layer_counts_once() -> None:
    conv = nn.Conv2d(3, 3, 3)
    net = nn.Sequential(conv, nn.Sequential(conv, nn.Conv2d(3, 3, 3)))
    assert list(kernel_magnitude(net).layers) == ["0", "1.1"]


def test_the_root_may_be_a_layer() -> None:
    assert list(kernel_magnitude(ACBConv()(2, 2, 3)).layers) == [""]


def test_a_model_without_such_kernels_is_refused(small_net: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="no convolution with 7×7 kernels; its kernels: 1×1, 3×3, 5×5"):
        kernel_magnitude(small_net(), 7)
    with pytest.raises(ValueError, match="its kernels: none"):
        kernel_magnitude(nn.Linear(2, 2))


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        kernel_magnitude(nn.Conv2d(1, 1, 2), 2)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_dead_or_diverged_layer_is_named(value: float) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    nn.init.constant_(net.get_parameter("1.weight"), value)
    with pytest.raises(ValueError, match="kernels of '1' are all zero or hold NaN"):
        kernel_magnitude(net)
