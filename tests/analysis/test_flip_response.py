from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acnet_pl.analysis import flip_response
from acnet_pl.nn import ACBConv, ACBlock, ConvNorm


@pytest.mark.parametrize("position", ["skeleton", "border"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("direction", "robust"), [("up-down", "horizontal"), ("left-right", "vertical")])
def test_only_the_kernel_along_the_axis_follows_the_flip(
    randomised: Callable[[nn.Module], nn.Module], position: str, stride: int, dilation: int, direction: str, robust: str
) -> None:
    block = randomised(
        ACBlock(4, 6, 3, stride, padding=1, dilation=dilation, groups=2, position=position)  # type: ignore[arg-type]
    )
    assert isinstance(block, ACBlock)
    responses = flip_response(block, torch.randn(2, 4, 9, 10), direction)  # type: ignore[arg-type]
    assert list(responses) == ["square", "horizontal", "vertical", "fused"]
    for name, difference in responses.items():
        assert (difference < 1e-5) if name == robust else (difference > 0.1), name


def _correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = kernel.shape
    rows, columns = image.shape[0] - height + 1, image.shape[1] - width + 1
    return np.array(
        [[(image[r : r + height, c : c + width] * kernel).sum() for c in range(columns)] for r in range(rows)]
    )


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_number_is_numpys(dilation: int) -> None:
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1, dilation=dilation).double()
    image = torch.randn(1, 1, 9, 8, dtype=torch.float64)
    x, kernel = image[0, 0].numpy(), np.zeros((2 * dilation + 1, 2 * dilation + 1))
    kernel[::dilation, ::dilation] = conv.weight.detach()[0, 0].numpy()
    response, flipped = _correlate(x, kernel), _correlate(x[::-1], kernel)
    expected = np.abs(flipped - response[::-1]).max() / np.abs(response).max()
    assert flip_response(conv, image) == {"fused": pytest.approx(expected)}


@pytest.mark.parametrize("size", [(1, 5), (3, 3)])
def test_a_plain_layer_counts_as_one_kernel(size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, 8, 8)
    for layer in (nn.Conv2d(3, 4, size), ConvNorm(3, 4, size).eval()):
        difference = flip_response(layer, images)["fused"]
        assert (difference < 1e-5) == (size[0] == 1)


def test_a_symmetric_square_kernel_follows_too() -> None:
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight += conv.weight.flip(-2)
    assert flip_response(conv, torch.randn(1, 2, 7, 7))["fused"] < 1e-5


def test_branches_that_are_off_are_left_out(randomised: Callable[[nn.Module], nn.Module]) -> None:
    block = randomised(ACBConv(vertical=False)(2, 3, 3))
    images: Tensor = torch.randn(1, 2, 7, 7)
    assert list(flip_response(block, images)) == ["square", "horizontal", "fused"]  # type: ignore[arg-type]


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'up-down' or 'left-right'"):
        flip_response(nn.Conv2d(1, 1, 3), torch.randn(1, 1, 5, 5), "diagonal")  # type: ignore[arg-type]
