"""Networks with hooks and replaced methods: what comes out of them computes and keeps the same, or is an error."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.nn.pairs import Randomise, X
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import (
    ACBConv,
    DBBConv,
    FusionError,
    PlainConv,
    convert_to_acnet,
    fuse_model,
    stock_state_dict,
)
from acnet_pl.nn.replaced import why_class_replaced

KEPT: list[Tensor] = []
CALLS: list[str] = []


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Parts(nn.Module):
    """A convolution and a batch norm in parts of their own, with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.between = Same()
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.head(self.between(self.stem(x)))


def keep_output(module: Any, args: Any, output: Any) -> None:
    KEPT.append(output)


def keep_input(module: Any, args: Any, output: Any = None) -> None:
    KEPT.append(args[0])


def double(module: Any, args: Any, output: Any) -> Any:
    return 2 * output


def replace(module: Any, args: Any, output: Any) -> Any:
    return torch.ones(2, 4, 6, 6, dtype=torch.float64)


def called(module: Any, args: Any, output: Any) -> None:
    CALLS.append("output")


def called_before(module: Any, args: Any) -> None:
    CALLS.append("input")


SEEING = [
    *(("stem", "forward", hook) for hook in (keep_output, double, replace)),
    *(("between", "forward", hook) for hook in (keep_output, keep_input, replace)),
    *(("between", "pre", keep_input), ("head", "pre", keep_input), ("head", "forward", keep_input)),
]


def register(model: nn.Module, name: str, kind: str, hook: Any) -> nn.Module:
    part = model.get_submodule(name)
    part.register_forward_hook(hook) if kind == "forward" else part.register_forward_pre_hook(hook)
    return model


def seen(network: Any) -> list[Tensor]:
    KEPT.clear()
    with torch.no_grad():
        return [network(X), *KEPT]


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
@pytest.mark.parametrize(("name", "kind", "hook"), SEEING)
def test_hook_at_the_boundary_of_a_part_sees_the_same(
    name: str, kind: str, hook: Any, example: Tensor | None, randomise: Randomise
) -> None:
    def build() -> nn.Module:
        return register(randomise(Parts().double()).eval(), name, kind, hook)

    model = build()
    acnet = convert_to_acnet(model, example, init="preserve")
    for network in (fuse_model(model, example), acnet):
        torch.testing.assert_close(seen(network), seen(model), rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        for parameter in acnet.parameters():
            parameter.add_(0.1)
    model.load_state_dict(stock_state_dict(acnet))
    torch.testing.assert_close(seen(model), seen(acnet), rtol=1e-9, atol=1e-10)


def test_gradient_hook_at_the_boundary_of_a_part_sees_the_same(randomise: Randomise) -> None:
    model: Any = randomise(Parts().double()).eval()
    model.stem.register_full_backward_hook(lambda module, given, got: KEPT.append(got[0].clone()))
    gradients = []
    for network in (model, fuse_model(model), convert_to_acnet(model, init="preserve")):
        KEPT.clear()
        network(X.clone().requires_grad_()).sum().backward()
        gradients.append(KEPT[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize(
    ("name", "kind", "hook"),
    [
        *(("stem", "forward", called), ("between", "forward", called), ("between", "pre", called_before)),
        *(("head", "pre", called_before), ("head", "forward", called), ("", "forward", keep_output)),
    ],
)
def test_hook_that_sees_nothing_between_parts_no_pair(name: str, kind: str, hook: Any, randomise: Randomise) -> None:
    fused: Any = fuse_model(register(randomise(Parts().double()).eval(), name, kind, hook), X)
    assert isinstance(fused.head[0], nn.Identity)


def test_bias_moves_past_no_hook_of_a_part(randomise: Randomise) -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)), nn.MaxPool2d(2), nn.BatchNorm2d(4))
    acnet: Any = randomise(convert_to_acnet(model).double())
    stock_state_dict(acnet)
    acnet[0].register_forward_hook(lambda module, args, output: CALLS.append(type(output).__name__))
    with pytest.raises(FusionError, match=r"^`0.0`: .*a hook of `0` may see"):
        stock_state_dict(acnet)


def tiled(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    return nn.functional.conv2d(x, weight, bias, self.stride)


def tile(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module._conv_forward = tiled.__get__(module)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("size", [1, 3])
def test_convolution_with_a_replaced_method_stays(size: int, randomise: Randomise) -> None:
    layers = nn.BatchNorm2d(3), nn.Conv2d(3, 4, size), nn.BatchNorm2d(4)
    model: Any = tile(randomise(nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1)).double()).eval())
    with torch.no_grad():
        torch.testing.assert_close(fuse_model(model)(X), model(X), rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match=r"nothing to convert.*Conv2d has a _conv_forward of its own"):
        convert_to_acnet(model)
    del model[3]._conv_forward
    acnet = convert_to_acnet(model, init="preserve")
    with torch.no_grad():
        torch.testing.assert_close(acnet(X), model(X), rtol=1e-9, atol=1e-10)


def changed(function: Any) -> Any:
    @functools.wraps(function)
    def method(*args: Any) -> Any:
        return function(*args).tanh()

    return method


@pytest.mark.parametrize(("kind", "name"), [(nn.Conv2d, "_conv_forward"), (_BatchNorm, "forward")])
def test_method_that_is_replaced_for_a_whole_class(kind: Any, name: str, randomise: Randomise) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()).eval()
    acnet = convert_to_acnet(model, init="preserve")
    with patch.object(kind, name, changed(getattr(kind, name))), torch.no_grad():
        torch.testing.assert_close(fuse_model(model)(X), model(X), rtol=1e-9, atol=1e-10)
        with pytest.raises(ValueError, match=f"the method {name} of {kind.__name__} was replaced"):
            convert_to_acnet(model)
        for act in (fuse_model, stock_state_dict):
            with pytest.raises(FusionError, match=f"^`0`: .*the method {name} of {kind.__name__} was replaced"):
                act(acnet)


def test_block_with_a_replaced_forward_is_refused() -> None:
    acnet: Any = convert_to_acnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    acnet[0].forward = torch.tanh
    for act in (fuse_model, stock_state_dict):
        with pytest.raises(FusionError, match=r"^`0`: ACBlock has a forward of its own"):
            act(acnet)


class SetsEps(nn.Sequential):
    eps = 1e-5

    def forward(self, x: Tensor) -> Any:
        self[1].__dict__["eps"] = self.eps
        return super().forward(x)


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "example"])
def test_attribute_that_is_set_past_the_module(example: Tensor | None, randomise: Randomise) -> None:
    model: Any = randomise(SetsEps(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()).eval()
    model.eps = 1.0
    fused: Any = fuse_model(model, example)
    for eps in (1.0, 0.1):
        fused.eps = model.eps = eps
        with torch.no_grad():
            torch.testing.assert_close(fused(X), model(X), rtol=1e-9, atol=1e-10)


def test_weight_of_a_batch_norm_that_is_a_buffer(randomise: Randomise) -> None:
    def build(seed: int) -> Any:
        model: Any = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()).eval()
        weight = model[1].weight.detach().clone() + seed
        del model[1].weight
        model[1].register_buffer("weight", weight)
        return model

    model, stock = build(0), build(1)
    fused, acnet = fuse_model(model), convert_to_acnet(model, init="preserve")
    assert isinstance(fused.get_submodule("1"), nn.Identity)
    stock.load_state_dict(stock_state_dict(acnet))
    with torch.no_grad():
        for network in (fused, acnet, stock):
            torch.testing.assert_close(network(X), model(X), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("conv", [ACBConv(), DBBConv(), PlainConv()], ids=repr)
def test_blocks_take_their_input_by_the_name_that_convolutions_have(conv: Any) -> None:
    block = conv(3, 4, 3).eval()
    assert torch.equal(block(input=X.float()), block(X.float()))


def test_method_under_a_decorator_of_pytorch_is_not_replaced() -> None:
    class Quiet(nn.Conv2d):
        @torch.no_grad()
        @torch.autocast("cpu", enabled=False)
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    assert why_class_replaced(Quiet) == ""
    elsewhere = FunctionType(Same.forward.__code__, {"__name__": "elsewhere"})
    with patch.object(Quiet, "forward", torch.no_grad()(elsewhere)):
        assert why_class_replaced(Quiet) == "the method forward of Quiet was replaced"
