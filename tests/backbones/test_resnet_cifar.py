from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones import ResNetCifar
from acnet_pl.nn import ACBConv, PlainConv


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_the_published_number(
    depth: int, millions: float, parameters: Callable[[nn.Module], int]
) -> None:
    """Table 6 of He et al., who have the identity shortcut; projections add two 1×1 convolutions and batch norms."""
    with torch.device("meta"):
        identity = parameters(ResNetCifar(PlainConv(), 10, depth=depth, shortcut="identity"))
        projection = parameters(ResNetCifar(PlainConv(), 10, depth=depth, shortcut="projection"))
    n = (depth - 2) // 6
    stages = [(16, 16), (16, 32), (32, 64)]
    convs = 3 * 16 * 9 + sum(9 * i * o + 9 * o * o * (2 * n - 1) for i, o in stages)
    norms = 2 * 16 + sum(2 * o * 2 * n for _, o in stages)
    assert identity == convs + norms + 64 * 10 + 10
    assert identity / 1e6 == pytest.approx(millions, abs=0.04 if depth == 110 else 0.01)
    assert projection == identity + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
def test_outputs_are_those_of_the_definition(
    shortcut: Literal["projection", "identity"], randomised: Callable[[nn.Module, Tensor], nn.Module]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 31, 34, dtype=torch.float64)
    net = ResNetCifar(PlainConv(), 10, depth=14, shortcut=shortcut).double()
    randomised(net, images)
    state = net.state_dict()

    def conv_norm(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = (state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *norm)

    with torch.no_grad():
        x = F.relu(conv_norm("stem", images))
        for stage in range(3):
            for block in range(2):
                name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
                out = conv_norm(f"{name}.conv2", F.relu(conv_norm(f"{name}.conv1", x, stride)))
                if stride == 2 and shortcut == "projection":
                    x = conv_norm(f"{name}.shortcut", x, stride)
                elif stride == 2:
                    x = torch.cat([F.avg_pool2d(x, 1, stride=2), torch.zeros_like(out)[:, x.shape[1] :]], 1)
                x = F.relu(out + x)
        expected = F.linear(x.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])
        assert (net(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
def test_every_3x3_convolution_is_replaced_the_stem_too(
    shortcut: Literal["projection", "identity"], kinds: Callable[[nn.Module], tuple[list[str], list[str]]]
) -> None:
    replaced, plain = kinds(ResNetCifar(ACBConv(), 10, depth=56, shortcut=shortcut))
    blocks = [f"stages.{stage}.{block}.conv{i}" for stage in range(3) for block in range(9) for i in (1, 2)]
    assert replaced == ["stem", *blocks]
    assert plain == (["stages.1.0.shortcut", "stages.2.0.shortcut"] if shortcut == "projection" else [])


@pytest.mark.parametrize(
    ("depth", "nearest"), [(57, "56 and 62"), (61, "56 and 62"), (18, "14 and 20"), (2, "8"), (7, "8"), (-5, "8")]
)
def test_a_wrong_depth_names_the_nearest(depth: int, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=rf"`depth` \(={depth}\) must be 6n\+2 with n of at least 1; nearest: {nearest}$"
    ):
        ResNetCifar(PlainConv(), 10, depth=depth)


def test_a_wrong_shortcut_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"`shortcut` \(='A'\) must be one of 'projection', 'identity'"):
        ResNetCifar(PlainConv(), 10, shortcut="A")  # type: ignore[arg-type]
