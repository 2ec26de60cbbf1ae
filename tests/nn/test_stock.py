"""stock_state_dict: the trained ACNet's function as strictly loading weights of the stock architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from tests.nn.byob import shallow
from timm.layers.norm_act import BatchNormAct2d
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from acnet_pl.nn import ACBlock, FusionError, convert_to_acnet, fuse_model, stock_state_dict

Randomise = Callable[[nn.Module], nn.Module]
Difference = Callable[[nn.Module, nn.Module, Tensor], float]


def images(n: int = 4, size: int = 12) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


def relu(x: Any) -> Any:
    return F.relu(x)


class Net(nn.Module):
    """Layers and a forward given from outside."""

    def __init__(self, flow: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.flow = flow

    def forward(self, x: Tensor) -> Any:
        return self.flow(self, x)


def conv(channels: int = 3, out: int = 4, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, k, **{"bias": False, **options})


def norm(channels: int = 4, **options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, **options)


# Each has a place for every bias: a batch norm of the convolution's own, its bias, or later layers that take it up.
WITH_PLACE: dict[str, Callable[[], nn.Module]] = {
    "own batch norm": lambda: nn.Sequential(conv(), norm(eps=1e-2), nn.ReLU(), conv(4), norm()),
    "own batch norm and bias": lambda: nn.Sequential(conv(bias=True), norm()),
    "batch norm not affine": lambda: nn.Sequential(
        conv(), norm(affine=False), nn.ReLU(), conv(4, bias=True), norm(affine=False)
    ),
    "bias": lambda: nn.Sequential(conv(bias=True), nn.ReLU(), conv(4, bias=True)),
    "grouped and depthwise": lambda: nn.Sequential(
        conv(3, 6, groups=3), norm(6), conv(6, 6, groups=6, padding_mode="circular", padding=1), norm(6)
    ),
    "batch norm with activation": lambda: nn.Sequential(conv(), BatchNormAct2d(4, act_layer=nn.PReLU)),
    "SyncBatchNorm": lambda: nn.Sequential(conv(), nn.SyncBatchNorm(4)),
    "batch norm after pooling": lambda: nn.Sequential(conv(), nn.MaxPool2d(2), nn.Dropout(0), norm(), nn.ReLU()),
    "batch norm after average pooling": lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 2), norm()),
    "batch norm also for others": lambda: Net(
        lambda net, x: net.norm(net.a(x)) + net.norm(net.b(x)), a=conv(bias=True), b=conv(bias=True), norm=norm()
    ),
    "sum": lambda: Net(
        lambda net, x: net.norm(net.a(x) + net.b(x) + 1), a=conv(padding=1), b=conv(k=5, padding=2), norm=norm()
    ),
    "residual stream": lambda: Net(
        lambda net, x: net.last(y := net.stem(x)) + net.norm2(net.body(relu(net.norm1(y)))),
        stem=conv(), norm1=norm(), body=conv(4, k=1), norm2=norm(), last=norm(),
    ),
    "concatenation": lambda: Net(
        lambda net, x: net.norm(torch.cat([relu(net.b(x)), net.a(x), net.c(x)], dim=1)),
        a=conv(padding=1), b=conv(3, 2, 1), c=conv(3, 5, padding=1), norm=norm(11),
    ),
    "1×1 convolution with batch norm": lambda: nn.Sequential(conv(), conv(4, 5, 1), norm(5)),
    "grouped 1×1 convolution with bias": lambda: nn.Sequential(conv(), conv(4, 6, 1, groups=2, bias=True)),
    "unpadded convolution with batch norm": lambda: nn.Sequential(conv(), conv(4, 4), norm()),
    "circularly padded convolution": lambda: nn.Sequential(
        conv(), conv(4, 4, padding=1, padding_mode="circular"), norm()
    ),
    "linear layer": lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    "two linear layers": lambda: Net(
        lambda net, x: net.b(net.a(net.conv(x).mean((2, 3)))),
        conv=conv(), a=nn.Linear(4, 3, bias=False), b=nn.Linear(3, 2),
    ),
    "batch norm without running statistics": lambda: nn.Sequential(
        conv(), nn.MaxPool2d(2), norm(track_running_stats=False)
    ),
    "shared under two names": lambda: Net(
        lambda net, x: net.norm(net.b(net.norm(net.a(x)))), a=(c := conv(3, 3)), b=c, norm=norm(3)
    ),
}  # fmt: skip

WITHOUT_PLACE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "activation": (lambda: nn.Sequential(conv(), nn.ReLU(), norm()), r"`0`: .*change what `1` gives"),
    "output": (lambda: nn.Sequential(nn.ReLU(), conv()), r"`1`: .*change what the output gives"),
    "zero padding": (lambda: nn.Sequential(conv(), conv(4, padding=1), norm()), "`0`: .*`1` pads its input with zeros"),
    "padded pooling": (lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 2, 1), norm()), "change what"),
    "spatial linear": (
        lambda: nn.Sequential(conv(k=11), nn.Flatten(), nn.Linear(16, 2)),
        "`2` takes more than one value per channel",
    ),
    "batch norm also for the input": (
        lambda: Net(lambda net, x: net.norm(net.conv(x) * 1) + net.norm(x), conv=conv(3, 3, padding=1), norm=norm(3)),
        "`conv`: ",
    ),
    "batch norm at two shifts": (
        lambda: Net(lambda net, x: net.norm(net.conv(x)) + net.norm(x), conv=conv(3, 3, padding=1), norm=norm(3)),
        "`conv`: .*`norm` is called several times, and would have to take up different biases",
    ),
    "no trace": (
        lambda: Net(lambda net, x: net.conv(x) if x.sum() else x, conv=conv()),
        "`conv`: .*torch.fx does not trace the model",
    ),
    "product": (
        lambda: Net(lambda net, x: net.norm(net.conv(x) * 2), conv=conv(), norm=norm()),
        "change what `mul` gives",
    ),
    "several": (lambda: Net(lambda net, x: net.a(x) + net.b(x), a=conv(), b=conv()), "^`a`, `b`: "),
    # Another call may choose the other entry, through which the bias would become something else.
    "a convolution that is chosen": (
        lambda: Net(
            lambda net, x: net.norm(net.table["a"](net.conv(x))),
            conv=conv(),
            table=nn.ModuleDict({"a": conv(4, 4, 1), "b": conv(4, 4, 1)}),
            norm=norm(),
        ),
        "`conv`: .*`table.a` is one of several: `table.b` is not called now",
    ),
    "a convolution that is chosen before a pooling": (
        lambda: Net(
            lambda net, x: net.norm(net.table["a"](net.conv(x))),
            conv=conv(),
            table=nn.ModuleDict({"a": nn.Sequential(conv(4, 4, 1)), "b": nn.MaxPool2d(2)}),
            norm=norm(),
        ),
        "`conv`: .*`table.a.0` is one of several: `table.b` is not called now",
    ),
    "a pooling that is chosen": (
        lambda: Net(
            lambda net, x: net.norm(net.table["a"](net.conv(x))),
            conv=conv(),
            table=nn.ModuleDict({"a": nn.MaxPool2d(2), "b": nn.Tanh()}),
            norm=norm(),
        ),
        "`conv`: .*`table.a` is one of several: `table.b` is not called now",
    ),
}


def acnet_of(build: Callable[[], nn.Module], randomise: Randomise, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomise(convert_to_acnet(build().double(), images(), **options)).eval()


@pytest.mark.parametrize("options", [{}, {"branch_norm": False}, {"init": "preserve"}], ids=str)
@pytest.mark.parametrize("name", WITH_PLACE)
def test_weights_load_strictly_and_give_the_same_outputs(
    name: str, options: dict[str, Any], randomise: Randomise, difference: Difference
) -> None:
    acnet = acnet_of(WITH_PLACE[name], randomise, **options)
    before = copy.deepcopy(acnet.state_dict())
    torch.manual_seed(1)
    stock = WITH_PLACE[name]().double().eval()
    stock.load_state_dict(stock_state_dict(acnet))
    assert difference(acnet, stock, images()) <= 1e-12
    assert all(torch.equal(value, before[key]) for key, value in acnet.state_dict().items())
    shapes = {key: (value.shape, value.dtype) for key, value in stock.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in stock_state_dict(acnet).items()} == shapes


@pytest.mark.parametrize("name", WITHOUT_PLACE)
def test_bias_without_a_place_is_an_error_that_names_the_block(name: str, randomise: Randomise) -> None:
    build, message = WITHOUT_PLACE[name]
    acnet = acnet_of(build, randomise)
    with pytest.raises(FusionError, match=message) as caught:
        stock_state_dict(acnet)
    assert "Use fuse_model(acnet)" in str(caught.value)


def test_batch_norm_carries_the_bias(randomise: Randomise) -> None:
    acnet = acnet_of(lambda: nn.Sequential(conv(), norm(eps=1e-3)), randomise)
    block = acnet.get_submodule("0")
    assert isinstance(block, ACBlock)
    kernel, bias = block.fuse_kernel()
    state = stock_state_dict(acnet)
    assert torch.equal(state["0.weight"], kernel)
    assert torch.equal(state["1.bias"], bias)
    assert state["1.weight"].tolist() == [1] * 4
    assert state["1.running_mean"].tolist() == [0] * 4
    assert state["1.running_var"].tolist() == [1 - 1e-3] * 4


def test_trained_network_in_train_mode_is_taken_by_its_eval_function(
    randomise: Randomise, difference: Difference
) -> None:
    torch.manual_seed(0)
    build = WITH_PLACE["own batch norm"]
    acnet = convert_to_acnet(build().double())
    optimiser = torch.optim.SGD(acnet.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        acnet(images()).square().mean().backward()
        optimiser.step()
    assert acnet.training
    stock = build().double()
    stock.load_state_dict(stock_state_dict(acnet))
    assert int(stock.state_dict()["1.num_batches_tracked"]) == 3
    assert difference(acnet.eval(), stock.eval(), images()) <= 1e-12


@pytest.mark.parametrize("as_tuples", [True, False])
def test_calibrated_batch_norms_have_the_statistics_of_their_inputs(
    as_tuples: bool, randomise: Randomise, difference: Difference
) -> None:
    acnet = acnet_of(WITH_PLACE["own batch norm"], randomise)
    batches = torch.split(images(24), [8, 7, 9])
    loader = [(batch, torch.zeros(len(batch))) for batch in batches] if as_tuples else batches
    stock = WITH_PLACE["own batch norm"]().double().eval()
    stock.load_state_dict(stock_state_dict(acnet, calibrate=loader))
    assert difference(acnet, stock, images()) <= 1e-12

    inputs = stock.get_submodule("3")(F.relu(stock.get_submodule("1")(stock.get_submodule("0")(images(24)))))
    last = stock.get_submodule("4")
    torch.testing.assert_close(last.running_mean, inputs.mean((0, 2, 3)))
    torch.testing.assert_close(last.running_var, inputs.var((0, 2, 3)))
    # In train mode, on all the images, it computes nearly the same; uncalibrated it would not.
    eval_output = stock(images(24))
    train_output = stock.train()(images(24))
    assert float((eval_output - train_output).detach().abs().max() / eval_output.detach().abs().max()) < 1e-3
    stock.load_state_dict(stock_state_dict(acnet))
    assert not torch.allclose(stock.train()(images(24)), eval_output, rtol=0.1)


def test_calibration_of_a_shared_block_counts_all_its_calls(randomise: Randomise, difference: Difference) -> None:
    acnet = acnet_of(WITH_PLACE["shared under two names"], randomise)
    stock = WITH_PLACE["shared under two names"]().double().eval()
    stock.load_state_dict(stock_state_dict(acnet, calibrate=[images()]))
    assert difference(acnet, stock, images()) <= 1e-12


def test_calibration_needs_batches(randomise: Randomise) -> None:
    acnet = acnet_of(WITH_PLACE["own batch norm"], randomise)
    with pytest.raises(ValueError, match="`calibrate` gives no batches"):
        stock_state_dict(acnet, calibrate=[])
    without = convert_to_acnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))  # no batch norm to calibrate
    assert set(stock_state_dict(without, calibrate=[images()])) == {"0.weight", "0.bias"}


def test_network_within_a_module_is_found(randomise: Randomise, difference: Difference) -> None:
    acnet = acnet_of(WITH_PLACE["own batch norm"], randomise)
    wrapped = nn.ModuleDict({"net": acnet, "loss": nn.BatchNorm1d(3)})
    state = stock_state_dict(wrapped)
    stock = nn.ModuleDict({"net": WITH_PLACE["own batch norm"]().double(), "loss": nn.BatchNorm1d(3)})
    stock.load_state_dict(state)
    assert difference(acnet, stock["net"].eval(), images()) <= 1e-12


def test_root_may_be_the_convolution(randomise: Randomise, difference: Difference) -> None:
    acnet = acnet_of(lambda: conv(bias=True), randomise)
    stock = conv(bias=True).double().eval()
    stock.load_state_dict(stock_state_dict(acnet))
    assert difference(acnet, stock, images()) <= 1e-12


def test_errors(randomise: Randomise) -> None:
    acnet = acnet_of(WITH_PLACE["own batch norm"], randomise)
    with pytest.raises(FusionError, match=r"^`0`: it has been fused already"):
        stock_state_dict(fuse_model(acnet))
    with pytest.raises(ValueError, match="Sequential holds no converted network"):
        stock_state_dict(WITH_PLACE["bias"]())
    nn.init.constant_(acnet.get_parameter("3.square.weight"), float("inf"))
    with pytest.raises(FusionError, match=r"^`3`: its fused weights hold NaN or infinite values"):
        stock_state_dict(acnet)
    lost = acnet_of(lambda: nn.Sequential(conv(), norm(track_running_stats=False)), randomise)
    with pytest.raises(FusionError, match=r"^`0`: its batch norm has track_running_stats=False"):
        stock_state_dict(lost)


def test_densenet_has_places_for_all_biases(randomise: Randomise, difference: Difference) -> None:
    """Its 3×3 convolutions have neither bias nor batch norm; batch norms take the biases up from the concatenations."""

    def build() -> nn.Module:
        network: nn.Module = torchvision.models.DenseNet(8, (3, 3), 16, num_classes=5)
        return network.eval()

    acnet, stock = randomise(convert_to_acnet(build())).eval(), build()
    stock.load_state_dict(stock_state_dict(acnet))
    assert difference(acnet, stock, images(2, 32).float()) <= 1e-5


@pytest.mark.parametrize("name", ["resnet14t", "efficientnet_lite0", "test_byobnet", "resnetv2_18", "ghostnet_050"])
def test_timm_fuses_the_blocks(name: str, randomise: Randomise, difference: Difference) -> None:
    acnet = randomise(convert_to_acnet(timm.create_model(name, num_classes=5))).eval()
    fused = reparameterize_model(acnet)
    assert not any(isinstance(module, ACBlock) for module in fused.modules())
    assert difference(acnet, fused, images(2, 64).float()) <= 1e-5


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_timm_fuses_the_stock_model_of_its_own_blocks(name: str, randomise: Randomise, difference: Difference) -> None:
    acnet = randomise(convert_to_acnet(shallow(name))).eval()
    stock = shallow(name).eval()
    stock.load_state_dict(stock_state_dict(acnet))
    assert difference(acnet, reparameterize_model(stock), images(2, 32).float()) <= 1e-5
