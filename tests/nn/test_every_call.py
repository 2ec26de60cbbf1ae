"""What comes out equals the model it came from at every call, or is left as it is with a word."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.feature_extraction import create_feature_extractor

from acnet_pl.nn import (
    FusionError,
    conversion_report,
    convert_to_acnet,
    fuse_model,
    stock_state_dict,
)

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
        UserWarning, match=r"`conv` and its batch norm are not fused.*depends on the argument `domain`"
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
            self.grid = torch.ones_like(x).cumsum(-1)
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


def test_detector_fuses_with_an_example() -> None:
    model = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    fused = fuse_model(model, ([torch.rand(3, 64, 64)],))
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())


class Tied(nn.Module):
    """Two convolutions with one weight, one whose weight is a projection too, two norms with one γ, and two of none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))
        self.b.weight = self.a.weight
        self.projection = self.c.weight
        self.norms[3].weight = self.norms[4].weight

    def forward(self, x: Tensor) -> Any:
        for conv, norm in zip([self.a, self.b, self.c, self.d, self.e], self.norms, strict=True):
            x = norm(conv(x)).relu()
        return x + self.projection.sum()


def test_tied_tensors_stay_tied(randomise: Randomise) -> None:
    torch.manual_seed(0)
    model = randomise(Tied().double())
    acnet = convert_to_acnet(model, init="preserve")
    report = {layer.name: layer for layer in conversion_report(acnet).layers}
    assert [name for name, layer in report.items() if layer.converted] == ["d", "e"]
    assert report["a"].reason == "its weight is tied to `b.weight`"
    assert report["c"].reason == "its weight is tied to `projection`"
    assert report["d"].reason == "batch norm `norms.3`: its weight is tied to `norms.4.weight`"
    assert same(model.eval(), acnet.eval(), X)
    optimiser = torch.optim.SGD(acnet.train().parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (acnet(X) - X.roll(1, 3)).square().mean().backward()
        optimiser.step()
    stock = Tied().double()
    stock.load_state_dict(stock_state_dict(acnet.eval()))
    assert same(acnet, stock.eval(), X)
    assert same(acnet, fuse_model(acnet), X)


def test_parameters_in_the_same_memory_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(ValueError, match=r"`0\.weight` and `1\.weight` are two parameters in the same memory"):
        convert_to_acnet(model)


def test_bias_moves_into_no_tied_layer(randomise: Randomise) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.two.bias = self.one.bias

        def forward(self, x: Tensor) -> Any:
            return self.two(self.one(self.conv(x)).relu())

    acnet = randomise(convert_to_acnet(Model().double())).eval()
    with pytest.raises(
        FusionError, match=r"`conv`: .*`one` would have to take it up alone, but its bias is tied to `two"
    ):
        stock_state_dict(acnet)


def test_bias_moves_past_no_hook(randomise: Randomise) -> None:
    acnet = convert_to_acnet(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(4)).double())
    randomise(acnet).eval()
    stock_state_dict(acnet)
    for hooked in ("0", "1", "2"):
        handle = acnet.get_submodule(hooked).register_forward_hook(lambda _, args, output: 2 * output)
        with pytest.raises(FusionError, match=rf"^`0`: .*`{hooked}` has a hook"):
            stock_state_dict(acnet)
        handle.remove()


def test_feature_extractor_stays_in_its_mode(randomise: Randomise) -> None:
    model = randomise(torchvision.models.resnet18().double())
    extractor = create_feature_extractor(model.eval(), {"layer1": "a"})
    for training in (False, True, False):
        extractor.train(training)
        acnet = convert_to_acnet(extractor, init="preserve")
        assert {module.training for module in acnet.modules()} == {training}
    fused = fuse_model(extractor)
    expected = extractor(X)["a"]
    for network in (acnet, fused, fuse_model(acnet)):
        torch.testing.assert_close(network(X)["a"], expected, rtol=1e-10, atol=1e-12)


def test_compiled_network_is_taken_for_what_is_inside(randomise: Randomise) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double()).eval()
    compiled: Any = torch.compile(model, backend="eager")
    assert same(model, fuse_model(compiled), X)
    acnet = convert_to_acnet(compiled, init="preserve")
    wrapped: Any = torch.compile(acnet, backend="eager")
    stock = copy.deepcopy(model)
    stock.load_state_dict(stock_state_dict(wrapped))
    assert same(model, stock, X)
    with pytest.raises(ValueError, match=r"`0` was returned by torch\.compile"):
        fuse_model(nn.Sequential(compiled))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripting_a_block_names_the_way_out(randomise: Randomise) -> None:
    acnet = randomise(convert_to_acnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double())).eval()
    with pytest.raises(FusionError, match=r"torch\.jit\.script cannot compile a ACBlock; script the fused network"):
        torch.jit.script(acnet)
    torch.testing.assert_close(torch.jit.script(fuse_model(acnet))(X), acnet(X), rtol=1e-10, atol=1e-12)


def test_complex_convolution_is_none_of_the_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.complex128), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="its weight is complex128"):
        convert_to_acnet(model)


def test_traced_acnet_keeps_its_branches_with_a_word(randomise: Randomise) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    acnet = randomise(convert_to_acnet(model.double(), init="preserve")).eval()
    with pytest.warns(UserWarning, match=r"torch\.fx traced `0`, `3` before they were fused.*fuse first"):
        fused = fuse_model(torch.fx.symbolic_trace(acnet))
    assert same(acnet, fused, X)
    fuse_model(torch.fx.symbolic_trace(fuse_model(acnet)))


def test_exported_part_stays_with_a_word(randomise: Randomise) -> None:
    class Holder(nn.Module):
        def __init__(self, exported: nn.Module) -> None:
            super().__init__()
            self.before, self.exported, self.after = pair(), exported, pair()

        def forward(self, x: Tensor) -> Any:
            return self.after(self.exported(self.before(x)))

    def pair() -> nn.Module:
        return randomise(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))).double().eval()

    def exported(part: nn.Module) -> nn.Module:
        return torch.export.export(part, (X,)).module()

    model = Holder(exported(pair()))
    vars(model)["training"] = False  # an exported module refuses eval()
    with pytest.warns(UserWarning, match="`batch_norm`: batch norms that a trace or export .* fuse first"):
        assert same(model, fuse_model(model, X), X)  # before torch 2.9 such a part takes no symbols
    assert same(model, convert_to_acnet(model, X, init="preserve"), X)
    with pytest.raises(ValueError, match=r"no convolution; a trace or export .* convert first"):
        convert_to_acnet(model.exported)
    acnet = convert_to_acnet(pair(), init="preserve").eval()
    with pytest.warns(UserWarning, match="traced `0` before they were fused"):
        assert same(acnet, fuse_model(exported(acnet)), X)


def test_modules_that_are_equal_by_value_are_refused() -> None:
    class Equal(nn.Conv2d):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

    model = nn.Sequential(Equal(3, 3, 3), nn.BatchNorm2d(3), Equal(3, 3, 3), nn.BatchNorm2d(3)).eval()
    for act in (fuse_model, convert_to_acnet):
        with pytest.raises(ValueError, match="`0`: Equal has an __eq__ or __hash__ of its own"):
            act(model)
