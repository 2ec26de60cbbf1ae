from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones import DenseNetCifar
from acnet_pl.nn import ACBConv, PlainConv


@pytest.mark.parametrize(("depth", "growth", "millions"), [(40, 12, 1.0), (100, 12, 7.0), (100, 24, 27.2)])
def test_parameters_are_the_published_number(
    depth: int, growth: int, millions: float, parameters: Callable[[nn.Module], int]
) -> None:
    """Table 2 of Huang et al."""
    with torch.device("meta"):
        count = parameters(DenseNetCifar(PlainConv(), 10, depth=depth, growth=growth))
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_outputs_are_those_of_the_definition(randomised: Callable[[nn.Module, Tensor], nn.Module]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 31, 34, dtype=torch.float64)
    net = DenseNetCifar(PlainConv(), 10, depth=13, growth=5).double()
    randomised(net, images)
    state = net.state_dict()

    def norm_relu(name: str, x: Tensor) -> Tensor:
        values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *values))

    with torch.no_grad():
        x = F.conv2d(images, state["stem.conv.weight"], padding=1)
        for stage in (1, 2, 3):
            for layer in range(3):
                name = f"stages.block{stage}.{layer}"
                out = F.conv2d(norm_relu(f"{name}.norm", x), state[f"{name}.conv.conv.weight"], padding=1)
                x = torch.cat([x, out], 1)
            if stage < 3:
                name = f"stages.transition{stage}"
                x = F.avg_pool2d(F.conv2d(norm_relu(f"{name}.norm", x), state[f"{name}.conv.conv.weight"]), 2)
        features = norm_relu("norm", x).mean((2, 3))
        expected = F.linear(features, state["classifier.weight"], state["classifier.bias"])
        assert (net(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_every_3x3_convolution_is_replaced_the_stem_too(
    kinds: Callable[[nn.Module], tuple[list[str], list[str]]],
) -> None:
    replaced, plain = kinds(DenseNetCifar(ACBConv(), 10))
    assert replaced == ["stem", *(f"stages.block{block}.{i}.conv" for block in (1, 2, 3) for i in range(12))]
    assert plain == ["stages.transition1.conv", "stages.transition2.conv"]


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"`depth` \(=41\) must be 3n\+4 .*; nearest: 40 and 43$"):
        DenseNetCifar(PlainConv(), 10, depth=41)
    with pytest.raises(ValueError, match=r"`growth` \(=0\) must be at least 1"):
        DenseNetCifar(PlainConv(), 10, growth=0)
