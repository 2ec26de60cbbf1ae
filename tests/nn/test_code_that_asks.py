"""Networks whose code does more with its layers than to call them: the same comes out, or an error."""

from __future__ import annotations

import functools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from acnet_pl.nn import FusionError, conversion_report, convert_to_acnet, fuse_model, stock_state_dict

Randomise = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution with its batch norm, some other things, and a forward given from outside."""

    def __init__(self, flow: Callable[[Any, Tensor], Any], change: Callable[[Any], Any] = lambda net: None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.other = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.flow = flow
        change(self)

    def forward(self, x: Tensor) -> Any:
        return self.flow(self, x)


def pair(net: Any, x: Tensor) -> Any:
    return net.norm(net.conv(x))


def outputs(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [one for part in (value if isinstance(value, tuple) else vars(value).values()) for one in outputs(part)]


def check(build: Callable[[], nn.Module], randomise: Randomise, example: Tensor | None = None) -> nn.Module:
    """Hold what is fused, converted and given back to the original; return what is fused."""
    torch.manual_seed(0)
    model = randomise(build().double()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fused = fuse_model(model, example)
    acnet = None
    try:
        acnet = convert_to_acnet(model, example, init="preserve")
    except ValueError as error:
        assert "nothing to convert" in str(error)  # noqa: PT017
    for network in (fused, acnet):
        for scale in (1, 2) if network else ():
            for a, b in zip(outputs(model(scale * X)), outputs(network(scale * X)), strict=True):  # type: ignore[misc]
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    return fused


def in_list(net: Any) -> None:
    net.order = [net.conv, net.norm]


def in_partial(net: Any) -> None:
    net.partial = functools.partial(lambda norm, x: norm(x), net.norm)


def in_object(net: Any) -> None:
    net.held = types.SimpleNamespace(norm={"it": (net.norm,)})


@pytest.mark.parametrize(
    ("flow", "change"),
    [
        (lambda net, x: functools.reduce(lambda value, layer: layer(value), net.order, x), in_list),
        (lambda net, x: net.partial(net.conv(x)), in_partial),
        (lambda net, x: net.held.norm["it"][0](net.conv(x)), in_object),
        (lambda net, x: net.hidden(net.conv(x)), lambda net: object.__setattr__(net, "hidden", net.norm)),
    ],
)
def test_layer_that_is_referred_to_from_elsewhere(flow: Any, change: Any, randomise: Randomise) -> None:
    fused = check(lambda: Net(flow, change), randomise)
    # A list may be in another order, a partial have another function.
    assert isinstance(fused.norm, nn.BatchNorm2d) == (change in (in_list, in_partial))


def takes_the_input(module: nn.Module, args: Any, output: Tensor) -> Any:
    return output + args[0]


def takes_statistics(module: Any, args: Any, output: Tensor) -> Any:
    return output + module.running_mean.mean()


def takes_the_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


@pytest.mark.parametrize(("hook", "left"), [(takes_the_input, 1), (takes_statistics, 1), (takes_the_output, 0)])
def test_forward_hook_of_the_norm_sees_what_it_saw(hook: Any, left: int, randomise: Randomise) -> None:
    fused = check(lambda: Net(pair, lambda net: net.norm.register_forward_hook(hook)), randomise)
    assert isinstance(fused.norm, nn.BatchNorm2d) == left


def test_forward_hook_of_the_convolution_sees_the_norm_before_it(randomise: Randomise) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    model[1].register_forward_hook(takes_the_input)
    check(lambda: model, randomise)


def regular(net: Any, x: Tensor) -> Any:
    return pair(net, x), sum(p.square().sum() for p in net.parameters())


class CalledTwice(nn.Conv2d):
    def __call__(self, x: Tensor) -> Any:  # type: ignore[override]
        return 2 * super().__call__(x)


class CalledNorm(nn.BatchNorm2d):
    def __call__(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().__call__(x).relu()


class Output:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def output_object(net: Any, x: Tensor) -> Any:
    out = net.conv(x)
    return Output(features=out, logits=net.norm(out))


def dilating(net: Any, x: Tensor) -> Any:
    net.conv.dilation = net.conv.padding = (2, 2)
    return pair(net, x)


@pytest.mark.parametrize(
    ("flow", "change", "example"),
    [
        (regular, None, None),
        (lambda net, x: pair(net, x) * net.state_dict()["conv.weight"].mean(), None, None),
        (lambda net, x: pair(net, x) + net.kept[0].sum(), lambda net: setattr(net, "kept", [net.conv.weight]), None),
        (lambda net, x: net.norm(functional_call(net.conv, {"weight": net.other}, (x,))), None, X),
        (pair, lambda net: setattr(net, "conv", CalledTwice(3, 4, 3)), None),
        (pair, lambda net: setattr(net, "norm", CalledNorm(4)), None),
        (output_object, None, X),
        (dilating, None, None),
        (pair, lambda net: setattr(net.norm, "track_running_stats", False), None),
    ],
)
def test_layer_that_is_used_otherwise_than_called(flow: Any, change: Any, example: Any, randomise: Randomise) -> None:
    check(lambda: Net(flow, change or (lambda net: None)), randomise, example)


ASKING: list[Callable[[Any, Tensor], Any]] = [
    lambda net, x: pair(net, x).relu() if isinstance(net.norm, nn.BatchNorm2d) else pair(net, x),
    lambda net, x: pair(net, x) * (2 if hasattr(net.norm, "eps") else 1),
    lambda net, x: pair(net, x) / (1 + net.norm.eps),
    lambda net, x: pair(net, x) * len([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]),
]


@pytest.mark.parametrize("flow", ASKING)
@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_code_that_asks_what_its_layers_are_is_refused(flow: Any, example: Any, randomise: Randomise) -> None:
    model = randomise(Net(flow).double()).eval()
    with pytest.raises(FusionError, match=r"once fused the code of the network behaves differently \(.*`"):
        fuse_model(model, example)
    with pytest.raises(ValueError, match=r"with blocks in it the code of the network behaves differently \(.*`"):
        convert_to_acnet(model, example)


@pytest.mark.parametrize(
    "flow",
    [
        lambda net, x: (net.norm, net.norm2)[x.shape[-1] % 2 == 0](net.conv(x)),
        lambda net, x: {9: net.norm, 8: net.norm2}[x.shape[-1]](net.conv(x)),
        lambda net, x: getattr(net, "norm" + net.which)(net.conv(x)),
    ],
)
def test_norm_that_no_condition_chooses(flow: Any, randomise: Randomise) -> None:
    def change(net: Any) -> None:
        net.norm2, net.which = nn.BatchNorm2d(4), ""

    model: Any = randomise(Net(flow, change).double()).eval()
    with pytest.warns(
        UserWarning, match=r"`norm` is one of several: `norm2` is not called now|chooses one of several values"
    ):
        fused: Any = fuse_model(model, X)
    acnet: Any = convert_to_acnet(model, X, init="preserve")
    for network in (model, fused, acnet):
        network.which = "2"
    for x in (X, X[..., :8]):
        expected = model(x)
        for network in (fused, acnet):
            torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-10)


def test_norm_without_shift_stays_beside_a_block(randomise: Randomise) -> None:
    model: Any = randomise(Net(pair).double()).eval()
    model.norm.register_parameter("bias", None)
    acnet = convert_to_acnet(model, init="preserve")
    assert "affine is True" in conversion_report(acnet).layers[0].reason
    for network in (acnet, fuse_model(model)):
        torch.testing.assert_close(network(X), model(X), rtol=1e-9, atol=1e-10)


def test_forward_of_an_instance_counts(randomise: Randomise) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        out = self.conv(x)
        return out + self.norm(out)

    def patched() -> nn.Module:
        net = Net(pair)
        net.forward = types.MethodType(forward, net)  # type: ignore[method-assign]
        return net

    fused = check(patched, randomise)
    assert isinstance(fused.norm, nn.BatchNorm2d)


def test_view_of_a_weight_is_refused() -> None:
    model = Net(pair, lambda net: net.register_buffer("flat", net.conv.weight.detach().view(-1)))
    with pytest.raises(ValueError, match=r"`conv\.weight` shares its memory with flat"):
        convert_to_acnet(model)


def test_what_cannot_be_copied_is_named_and_features_kept_from_training_can(randomise: Randomise) -> None:
    model = Net(pair)
    model.kept = {"features": [model(X.float())]}  # type: ignore[assignment]
    check(lambda: model, randomise)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="cannot be copied because of `lock`"):
        fuse_model(model)


SHIFTED: list[tuple[Callable[[Any, Tensor], Any], bool]] = [
    (lambda net, x: net.norm((lambda y: y + y)(net.conv(x))), True),
    (lambda net, x: net.linear(nn.functional.adaptive_avg_pool2d(net.conv(x), 2).flatten(2)), False),
    (lambda net, x: net.norm(net.conv2(x) + net.conv(x).mean((2, 3))), False),
]


@pytest.mark.parametrize(("flow", "right"), SHIFTED)
def test_bias_moves_on_rightly_or_not_at_all(flow: Any, right: bool, randomise: Randomise) -> None:
    def change(net: Any) -> None:
        net.conv2, net.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    acnet = randomise(convert_to_acnet(Net(flow, change).double())).eval()
    assert [layer.norm for layer in conversion_report(acnet).converted] == [None]
    if not right:
        with pytest.raises(FusionError, match="`conv`: the stock model has no place"):
            stock_state_dict(acnet)
        return
    stock = Net(flow, change).double().eval()
    stock.load_state_dict(stock_state_dict(acnet))
    torch.testing.assert_close(stock(X), acnet(X), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("flow", "left"),
    [
        (lambda net, x: pair(net, x.to(net.conv.weight.dtype)), 0),
        (lambda net, x: pair(net, x.to(net.norm.weight.dtype)), 1),
        (lambda net, x: pair(net, x) * net.conv.weight.shape[0], 0),
    ],
)
@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_layer_whose_type_or_shape_is_asked_keeps_its_tensor(
    flow: Any, left: int, example: Any, randomise: Randomise
) -> None:
    fused = check(lambda: Net(flow), randomise, example)
    assert isinstance(fused.norm, nn.BatchNorm2d) == left


def in_branches(net: Any, x: Tensor) -> Any:
    return pair(net, x) if x.sum() > -1e9 and not net.conv.transposed else x


@pytest.mark.parametrize("init", ["scratch", "preserve"])
def test_attribute_that_blocks_lack_is_an_error_of_the_conversion(init: Any, randomise: Randomise) -> None:
    model = randomise(Net(in_branches).double()).eval()
    with pytest.raises(ValueError, match=r"differently \(AttributeError: 'ACBlock' object has no .*'transposed'"):
        convert_to_acnet(model, X, init=init)


def test_convolution_that_an_observer_watches_stays(randomise: Randomise) -> None:
    def watch(net: Any) -> None:
        net.conv.observer = nn.Identity()
        net.conv.register_forward_hook(lambda module, args, output: module.observer(output))
        net.last = nn.Conv2d(4, 4, 3)

    model = randomise(Net(lambda net, x: net.last(pair(net, x)), watch).double()).eval()
    acnet = convert_to_acnet(model, init="preserve")
    assert conversion_report(acnet).reasons() == {"it holds more than a weight and a bias (observer)": 1}
    torch.testing.assert_close(acnet(X), model(X), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("lazy", [nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(4)])
@pytest.mark.parametrize("act", [fuse_model, convert_to_acnet])
def test_network_that_was_never_evaluated_is_refused(lazy: nn.Module, act: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), lazy)
    for example in (None, X.float()):
        with pytest.raises(ValueError, match=r"`1` \(Lazy\w+\) is not initialised yet; evaluate the network once"):
            act(model.eval(), example)
    assert type(lazy).__name__.startswith("Lazy")
