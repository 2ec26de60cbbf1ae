from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones import WideResNet
from acnet_pl.nn import ACBConv, PlainConv


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(16, 8, 10.96), (40, 1, 0.6), (40, 4, 8.9), (22, 8, 17.2), (28, 10, 36.5)]
)
def test_parameters_are_the_published_number(
    depth: int, width: int, millions: float, parameters: Callable[[nn.Module], int]
) -> None:
    """Tables 3 and 4 of Zagoruyko and Komodakis."""
    with torch.device("meta"):
        count = parameters(WideResNet(PlainConv(), 10, depth=depth, width=width))
    assert count / 1e6 == pytest.approx(millions, abs=0.005 if millions == 10.96 else 0.05)


@pytest.mark.parametrize(("depth", "width"), [(16, 2), (10, 1)])
def test_outputs_are_those_of_the_definition(
    depth: int, width: int, randomised: Callable[[nn.Module, Tensor], nn.Module]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 31, 34, dtype=torch.float64)
    net = WideResNet(PlainConv(), 10, depth=depth, width=width).double()
    randomised(net, images)
    state = net.state_dict()

    def norm_relu(name: str, x: Tensor) -> Tensor:
        values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *values))

    with torch.no_grad():
        x = F.conv2d(images, state["stem.conv.weight"], padding=1)
        for stage in range(3):
            for block in range((depth - 4) // 6):
                name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
                active = norm_relu(f"{name}.norm", x)
                out = F.conv2d(active, state[f"{name}.conv1.conv.weight"], stride=stride, padding=1)
                out = F.conv2d(norm_relu(f"{name}.conv1.norm", out), state[f"{name}.conv2.conv.weight"], padding=1)
                if stride == 2 or x.shape[1] != out.shape[1]:
                    x = F.conv2d(active, state[f"{name}.projection.conv.weight"], stride=stride)
                x = out + x
        features = norm_relu("norm", x).mean((2, 3))
        expected = F.linear(features, state["classifier.weight"], state["classifier.bias"])
        assert (net(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_every_3x3_convolution_is_replaced_the_stem_too(
    kinds: Callable[[nn.Module], tuple[list[str], list[str]]],
) -> None:
    with torch.device("meta"):
        replaced, plain = kinds(WideResNet(ACBConv(), 10))
    blocks = [f"stages.{stage}.{block}.conv{i}" for stage in range(3) for block in range(2) for i in (1, 2)]
    assert replaced == ["stem", *blocks]
    assert plain == [f"stages.{stage}.0.projection" for stage in range(3)]


def test_wrong_options_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"`depth` \(=20\) must be 6n\+4 .*; nearest: 16 and 22$"):
        WideResNet(PlainConv(), 10, depth=20)
    with pytest.raises(ValueError, match=r"`width` \(=0\) must be at least 1"):
        WideResNet(PlainConv(), 10, width=0)
