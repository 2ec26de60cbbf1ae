"""fuse_model: a fused copy of any network, with the structure of the fused plain network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.backbones import ResNetCifar
from acnet_pl.nn import ACBConv, ACBlock, ConvNorm, FusionError, PlainConv, convert_to_acnet, fuse_model

Randomise = Callable[[nn.Module], nn.Module]
Difference = Callable[[nn.Module, nn.Module, Tensor], float]
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


class Blocks(nn.Module):
    """A stem, a shared pair, a block under two names and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.ModuleList([ACBlock(4, 4, 3, padding=1), ConvNorm(4, 4, 1)])
        self.again = self.body[0]
        self.pair = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(4)})

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for layer in [*self.body, self.again]:
            x = F.relu(layer(x))
        for _ in range(2):
            x = self.pair["norm"](self.pair["conv"](x))
        return x


@pytest.fixture
def network(randomise: Randomise) -> nn.Module:
    torch.manual_seed(0)
    return randomise(Blocks()).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fused_copy_computes_what_the_network_computes(
    network: nn.Module, difference: Difference, dtype: torch.dtype, tolerance: float
) -> None:
    network.to(dtype)
    before = copy.deepcopy(network.state_dict())
    fused = fuse_model(network)
    assert difference(network, fused, X.to(dtype)) <= tolerance
    assert norms(fused) == 0
    assert not any(isinstance(module, (ACBlock, ConvNorm)) for module in fused.modules())
    assert {parameter.dtype for parameter in fused.parameters()} == {dtype}
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_shared_modules_stay_shared(network: Blocks) -> None:
    fused = fuse_model(network)
    assert isinstance(fused, Blocks)
    assert isinstance(fused.again, nn.Conv2d)
    assert fused.again is fused.body[0]


def test_fusing_again_changes_nothing(network: nn.Module) -> None:
    once = fuse_model(network)
    twice = fuse_model(once)
    assert repr(once) == repr(twice)
    assert all(torch.equal(value, twice.state_dict()[key]) for key, value in once.state_dict().items())


def test_network_with_nothing_to_fuse_is_copied_whatever_its_mode() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3), nn.LayerNorm(2), nn.BatchNorm1d(2)).train()
    fused = fuse_model(model)
    assert repr(fused) == repr(model)
    assert fused is not model
    assert fused.training


@pytest.mark.parametrize("build", [lambda: ACBlock(3, 4, 3), lambda: ConvNorm(3, 4, 3)])
def test_root_may_be_a_block(build: Callable[[], nn.Module], randomise: Randomise, difference: Difference) -> None:
    block = randomise(build()).eval()
    fused = fuse_model(block)
    assert type(fused) is nn.Conv2d
    assert difference(block, fused, X) <= 1e-5
    for layer in (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3)):
        assert repr(fuse_model(layer)) == repr(layer)


@pytest.mark.parametrize(
    "build", [lambda: torchvision.models.resnet18(), lambda: ResNetCifar(PlainConv(), 10, depth=20)]
)
def test_plain_network_and_acnet_deploy_to_the_same_structure(build: Callable[[], nn.Module]) -> None:
    plain = build()
    acnet = (
        convert_to_acnet(plain)
        if isinstance(plain, torchvision.models.ResNet)
        else ResNetCifar(ACBConv(), 10, depth=20)
    )
    fused_plain, fused_acnet = fuse_model(plain.eval()), fuse_model(acnet.eval())
    assert repr(fused_plain) == repr(fused_acnet)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (fused_plain, fused_acnet)]
    assert shapes[0] == shapes[1]
    assert norms(fused_plain) == 0


def test_pre_activation_batch_norms_stay(randomise: Randomise, difference: Difference) -> None:
    model = randomise(torchvision.models.DenseNet(block_config=(2, 3, 2, 2), num_classes=5)).eval()
    fused = fuse_model(model)
    assert difference(model, fused, torch.randn(2, 3, 32, 32)) <= 1e-5
    assert norms(model) == 23
    assert norms(fused) == 23 - 9 - 1  # all but those after a layer's 1×1 convolution and the stem


def test_batch_norm_with_activation_keeps_it(randomise: Randomise, difference: Difference) -> None:
    model = randomise(timm.create_model("efficientnet_lite0", num_classes=5)).eval()
    fused = fuse_model(model)
    assert norms(fused) == 0
    assert sum(isinstance(module, nn.ReLU6) for module in fused.modules()) == sum(
        isinstance(module, nn.ReLU6) for module in model.modules()
    )
    assert difference(model, fused, torch.randn(2, 3, 32, 32)) <= 1e-5


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "geometry", [{"groups": 4, "stride": 2}, {"padding": 2, "padding_mode": "circular"}, {"dilation": 2}]
)
def test_every_kind_of_batch_norm_and_convolution_fuses(
    kind: type[_BatchNorm], affine: bool, bias: bool, geometry: Any, randomise: Randomise, difference: Difference
) -> None:
    conv = nn.Conv2d(4, 8, (3, 2), bias=bias, **geometry)
    model = randomise(nn.Sequential(conv, kind(8, eps=1e-2, affine=affine))).double().eval()
    fused = fuse_model(model)
    assert norms(fused) == 0
    assert difference(model, fused, torch.randn(2, 4, 9, 9, dtype=torch.float64)) <= 1e-12


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), "`0.1`: it is in train mode"),
        (lambda: nn.Sequential(nn.ReLU(), ACBlock(3, 4, 3)), "`1`: it is in train mode"),
        (lambda: ACBlock(3, 4, 3), "it is in train mode"),
    ],
)
def test_train_mode_is_an_error_that_names_the_layer(build: Callable[[], nn.Module], name: str) -> None:
    with pytest.raises(FusionError, match=rf"^{name}.*call model.eval\(\) first"):
        fuse_model(build())


def test_values_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    nn.init.constant_(model.get_parameter("0.weight"), float("nan"))
    with pytest.raises(FusionError, match=r"^`0`: its weights fused with batch norm `1` hold NaN or infinite values"):
        fuse_model(model)


def test_batch_norm_without_running_statistics_stays(difference: Difference) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    fused = fuse_model(model)
    assert norms(fused) == 1
    assert difference(model, fused, X) == 0


def test_flags_hooks_and_memory_format_are_kept(network: Blocks) -> None:
    seen: list[str] = []
    network.body[0].register_forward_hook(lambda *_: seen.append("block"))
    network.stem[0].register_forward_pre_hook(lambda *_: seen.append("conv"))
    network.stem[1].register_forward_hook(lambda *_: seen.append("norm"))
    network.stem[0].weight.requires_grad_(False)
    network.body[1].requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    fused = fuse_model(network)
    assert isinstance(fused, Blocks)
    seen.clear()
    fused(X)
    assert seen == ["conv", "norm", "block", "block"]
    assert all(not module.training for module in fused.modules())
    flags = {name: parameter.requires_grad for name, parameter in fused.named_parameters()}
    assert flags["pair.conv.bias"]
    assert flags["body.0.weight"]
    assert flags["stem.0.weight"]  # its batch norm was trainable
    assert not flags["body.1.weight"]
    assert fused.get_parameter("stem.0.weight").is_contiguous(memory_format=torch.channels_last)


def test_weights_tied_between_convolutions_are_fused_apart(randomise: Randomise, difference: Difference) -> None:
    model = nn.Sequential(*(layer for _ in "ab" for layer in (nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3))))
    model[2].weight = model[0].weight
    for seed, norm in enumerate((model[1], model[3])):
        randomise(norm, seed)  # type: ignore[call-arg]
    fused = fuse_model(model.eval())
    assert norms(fused) == 0
    assert difference(model, fused, X) <= 1e-5


class Dynamic(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.tail = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if x.abs().sum() == 0 else self.tail(x)


def test_network_that_does_not_trace_needs_an_example(randomise: Randomise, difference: Difference) -> None:
    model = randomise(Dynamic()).eval()
    with pytest.warns(UserWarning, match=r"whether batch norms follow `conv`, .*give an `example_input`") as caught:
        fused = fuse_model(model)
    assert caught[0].filename == __file__
    assert norms(fused) == 2
    assert difference(model, fused, X) == 0
    fused = fuse_model(model, X)
    assert norms(fused) == 0
    assert difference(model, fused, X) <= 1e-5


def test_convolution_whose_weight_is_read_is_not_fused(randomise: Randomise, difference: Difference) -> None:
    class Reader(Dynamic):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight)  # type: ignore[no-any-return]

    model = randomise(Reader()).eval()
    fused = fuse_model(model)
    assert difference(model, fused, X) == 0
    assert isinstance(fused.norm, nn.BatchNorm2d)


def test_hidden_train_mode_of_a_single_batch_norm_is_seen(network: Blocks) -> None:
    network.pair["norm"].train()
    with pytest.raises(FusionError, match=r"^`pair\.norm`: it is in train mode"):
        fuse_model(network)


def test_fused_copy_can_be_trained_and_exported(network: nn.Module) -> None:
    fused = fuse_model(network)
    fused(X).sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())
    program = torch.export.export(fused, (X,)).module()
    torch.testing.assert_close(program(X), fused(X))
