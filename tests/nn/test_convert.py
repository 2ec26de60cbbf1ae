"""convert_to_acnet: which convolutions become blocks, with which batch norm, and from which values they begin."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from acnet_pl.nn import (
    ACBConv,
    ACBlock,
    ConvBuilder,
    DBBConv,
    PlainConv,
    conversion_report,
    convert,
    convert_to_acnet,
    fuse_model,
    fuse_report,
    stock_state_dict,
    surgery,
)

Randomise = Callable[[nn.Module], nn.Module]
Difference = Callable[[nn.Module, nn.Module, Tensor], float]


def small(**conv: Any) -> nn.Sequential:
    """Two convolutions with batch norm and one without."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
        nn.ReLU(),
        nn.Conv2d(4, 8, **{"kernel_size": 3, "padding": 1, **conv}),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
    )


def images(n: int = 4, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, 11, 11, generator=torch.Generator().manual_seed(0))


def test_convolution_and_its_batch_norm_become_one_block() -> None:
    model = small()
    acnet = convert_to_acnet(model, gamma_init=1 / 3)
    assert isinstance(acnet, nn.Sequential)
    assert [type(layer).__name__ for layer in acnet] == [
        *("ACBlock", "Identity", "ReLU") * 2,
        "ACBlock",
    ]
    block = acnet.get_submodule("0")
    assert isinstance(block, ACBlock)
    for norm in block.norms():
        assert (norm.eps, norm.momentum) == (1e-3, 0.3)
        assert norm.weight.tolist() == pytest.approx([1 / 3] * 4)
    assert [type(layer).__name__ for layer in model[:2]] == ["Conv2d", "BatchNorm2d"]
    assert not torch.equal(acnet.get_parameter("0.square.weight"), model.get_parameter("0.weight"))


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"kernel_size": 5, "padding": 0},
    {"groups": 4},
    {"stride": (2, 1), "padding": (2, 0)},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding_mode": "reflect"},
    {"padding_mode": "circular", "bias": False},
    {"kernel_size": 7, "padding": 3, "groups": 2, "stride": 2},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"horizontal": False},
    {"vertical": False, "horizontal": False},
    {"branch_norm": False},
    {"branch_norm": "scale"},
    {"asymmetric_size": 3},
    {"position": "border"},
]


class OfAllGeometries(nn.ModuleList):
    """A small network of each geometry; they share the input."""

    def __init__(self) -> None:
        super().__init__(small(**geometry) for geometry in GEOMETRIES)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [network(x) for network in self]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_preserve_keeps_the_function_in_eval_mode(
    options: dict[str, Any], randomise: Randomise, difference: Difference
) -> None:
    torch.manual_seed(0)
    model = randomise(OfAllGeometries()).double().eval()
    acnet = convert_to_acnet(model, init="preserve", **options)
    assert len(conversion_report(acnet).converted) == 3 * len(GEOMETRIES)
    assert difference(model, acnet, images().double()) <= 1e-12
    assert difference(model, fuse_model(acnet), images().double()) <= 1e-12
    model.float()
    assert difference(model, convert_to_acnet(model, init="preserve", **options), images()) <= 1e-5


@pytest.mark.parametrize("options", [{}, {"branch_norm": False}, {"branch_norm": "scale"}], ids=str)
def test_training_starts_from_the_function_where_there_was_no_batch_norm(
    options: dict[str, Any], difference: Difference
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    nn.init.constant_(model.get_parameter("2.bias"), -4.6)
    batch = (3 * images(64).double() + 1, "labels")
    with pytest.warns(UserWarning, match="`0`, `2`: the block's own batch norm stands where .* give `calibrate`"):
        lost = convert_to_acnet(model, init="preserve", **options)
    acnet = convert_to_acnet(model, init="preserve", calibrate=[batch], **options)
    assert difference(model.eval(), acnet.eval(), images().double()) <= 1e-12
    expected = model(batch[0])
    with torch.no_grad():  # the running variance is the unbiased one
        torch.testing.assert_close(acnet.train()(batch[0]), expected, rtol=1e-3, atol=1e-3)
        assert float((lost.train()(batch[0]) - expected).abs().max()) > 1
    model.requires_grad_(False)
    frozen = convert_to_acnet(model, init="preserve", calibrate=[batch], **options)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.raises(ValueError, match=r"`calibrate` is for init='preserve', got init='scratch'"):
        convert_to_acnet(model, calibrate=[batch])


@pytest.mark.parametrize(
    "options", [{}, {"branch_norm": False}, {"branch_norm": "scale"}, {"horizontal": False}], ids=str
)
@pytest.mark.parametrize("norm", ["affine", "not affine", "none", "frozen"])
def test_new_branches_start_inactive_and_learn(
    options: dict[str, Any], norm: str, randomise: Randomise, difference: Difference
) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1)]
    if norm != "none":
        layers.append(nn.BatchNorm2d(4, affine=norm != "not affine"))
    model = randomise(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(4, 2, 1))).eval()
    if norm == "frozen":
        model.get_submodule("1").requires_grad_(False)
    acnet = convert_to_acnet(model, init="preserve", **options)
    assert difference(model, acnet, images()) <= 1e-5

    block = acnet.get_submodule("0")
    assert isinstance(block, ACBlock)
    acnet.train()
    if norm == "frozen":
        for own in block.norms():
            own.eval()
    optimiser = torch.optim.SGD(acnet.parameters(), 0.05)
    before = copy.deepcopy(block)
    target = torch.randn(4, 2, 11, 11)
    for step in range(2):
        optimiser.zero_grad()
        F.mse_loss(acnet(images()), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        for branch in ("horizontal", "vertical"):
            kernel = getattr(block, branch)
            own = getattr(block, f"{branch}_norm") or getattr(block, f"{branch}_scale")
            if kernel is None:
                continue
            moved = not torch.equal(kernel.weight, getattr(before, branch).weight)
            if own is None:
                assert moved  # a zero kernel learns at once
            else:
                assert own.weight.all()  # γ or the scale learns at the first step, the kernel from the second
                assert moved == (step == 1)
    acnet.eval()
    assert difference(acnet, fuse_model(acnet), images()) <= 1e-5
    assert difference(model, acnet, images()) > 1e-3


def test_convolution_without_batch_norm_keeps_its_function_exactly(difference: Difference) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Tanh(), nn.Conv2d(6, 6, 5, bias=False)).double().eval()
    acnet = convert_to_acnet(model, init="preserve")
    assert difference(model, acnet, images().double()) <= 1e-14
    norm = acnet.get_submodule("0.square_norm")
    assert torch.equal(norm.get_parameter("bias"), model.get_parameter("0.bias"))


def test_statistics_and_counters_are_taken_over() -> None:
    model = small()
    model(images())
    acnet = convert_to_acnet(model, init="preserve")
    for key in ("weight", "bias", "running_var", "num_batches_tracked", "running_mean"):
        assert torch.equal(acnet.state_dict()[f"0.square_norm.{key}"], model.state_dict()[f"1.{key}"]), key
    shifted = model.state_dict()["4.running_mean"] - model.state_dict()["3.bias"]
    assert torch.equal(acnet.state_dict()["3.square_norm.running_mean"], shifted)


@pytest.mark.parametrize("init", ["scratch", "preserve"])
def test_kind_dtype_and_flags_of_the_layers_are_kept(init: Any) -> None:
    model = small().double()
    model[1] = nn.SyncBatchNorm(4, eps=1e-3, momentum=None, affine=False).double()
    model[3].requires_grad_(False)
    model[4].requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    model.train()
    model[4].eval()
    acnet = convert_to_acnet(model, init=init)
    first, second = acnet.get_submodule("0"), acnet.get_submodule("3")
    assert isinstance(first, ACBlock)
    assert isinstance(second, ACBlock)
    assert {type(norm) for norm in first.norms()} == {nn.SyncBatchNorm}
    assert {norm.momentum for norm in first.norms()} == {None}
    assert first.square_norm is not None
    assert not first.square_norm.affine
    assert {norm.affine for norm in first.norms() if norm is not first.square_norm} == {init == "preserve"}
    assert all(not norm.training for norm in second.norms())
    assert second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert {parameter.dtype for parameter in acnet.parameters()} == {torch.float64}
    assert second.get_parameter("horizontal.weight").is_contiguous(memory_format=torch.channels_last)


def test_block_of_a_frozen_convolution_with_a_trainable_batch_norm_can_learn() -> None:
    model = small()
    model[0].requires_grad_(False)
    block = convert_to_acnet(model, init="preserve")[0]  # type: ignore[index]
    trainable = {name for name, parameter in block.named_parameters() if parameter.requires_grad}
    assert trainable == {
        f"{branch}_norm.{p}" for branch in ("square", "horizontal", "vertical") for p in ("weight", "bias")
    }


def test_residual_branch_that_begins_at_zero_still_does() -> None:
    model = torchvision.models.resnet18(zero_init_residual=True)
    block = convert_to_acnet(model).get_submodule("layer1.0.conv2")
    assert isinstance(block, ACBlock)
    assert not any(norm.weight.any() for norm in block.norms())
    assert convert_to_acnet(model).get_parameter("layer1.0.conv1.square_norm.weight").all()


def test_batch_norm_with_activation_keeps_it(randomise: Randomise, difference: Difference) -> None:
    norm = BatchNormAct2d(4, act_layer=nn.PReLU)
    nn.init.constant_(norm.get_parameter("act.weight"), 0.3)
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), norm)).eval()
    acnet = convert_to_acnet(model, init="preserve")
    assert acnet.get_parameter("1.act.weight").item() == pytest.approx(0.3)
    assert difference(model, acnet, images()) <= 1e-5


class Shared(nn.Module):
    """A convolution under two names with its batch norm, and one that two batch norms follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.alias = self.conv
        self.norm = nn.BatchNorm2d(3)
        self.two = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        for _ in range(2):
            x = F.relu(self.norm(self.alias(x)))
        for norm in self.norms:
            x = F.relu(norm(self.two(x)))
        return x


@pytest.mark.parametrize("kinds", [1, 3, 4, 5])
def test_the_summary_counts_blocks_and_names_what_stays(kinds: int) -> None:
    layers = [nn.Conv2d(3, 3, (1, width)) for width in range(2, 2 + kinds)]
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, (1, 2)), *layers)
    others = ["`4`: rectangular kernel 1×3", "`5`: rectangular kernel 1×4"][: kinds - 1]
    more = {4: ["and 1 more reason"], 5: ["and 2 more reasons"]}.get(kinds, [])
    counts = f"1 of {kinds + 2} convolutions converted, 1 of them with their batch norm; {kinds + 1} left"
    why = "; ".join(["`2`, `3`: rectangular kernel 1×2", *others, *more])
    assert conversion_report(convert_to_acnet(model)).summary() == f"{counts}: {why}"


def test_the_summary_of_a_whole_conversion_is_short() -> None:
    report = conversion_report(convert_to_acnet(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))))
    assert report.summary() == "1 of 1 convolutions converted, 1 of them with their batch norm"


def test_shared_convolution_becomes_one_shared_block(randomise: Randomise, difference: Difference) -> None:
    model = randomise(Shared()).eval()
    acnet = convert_to_acnet(model, init="preserve")
    assert isinstance(acnet, Shared)
    assert isinstance(acnet.get_submodule("conv"), ACBlock)
    assert acnet.alias is acnet.conv
    assert isinstance(acnet.get_submodule("two"), ACBlock)
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in acnet.norms)
    report = {layer.name: layer for layer in conversion_report(acnet).layers}
    assert report["conv"].norm == "norm"
    assert report["two"].norm is None
    assert report["two"].reason == "batch norm `norms.0` is not the only consumer of the convolution's output"
    assert difference(model, acnet, images()) <= 1e-5


class Functional(nn.Module):
    """Uses the weight of one convolution by itself, and one convolution not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.read = nn.Conv2d(3, 3, 3)
        self.idle = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.read.weight)


class Dynamic(Functional):
    """Decides on its data."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().sum() > 0 else x


@pytest.mark.parametrize(("kind", "example"), [(Functional, None), (Dynamic, images())])
def test_convolution_used_functionally_or_never_stays(
    kind: type[nn.Module], example: Any, difference: Difference
) -> None:
    model = kind().eval()
    acnet = convert_to_acnet(model, example, init="preserve")
    assert {layer.name: layer.reason for layer in conversion_report(acnet).layers} == {
        "conv": "no batch norm follows",
        "read": "its weight is read other than by calling it",
        "idle": "is not called now (give an `example_input` whose arguments take its path)",
    }
    assert difference(model, acnet, images()) <= 1e-5


class Undecided(nn.Module):
    """Decides on its data where its batch norms go."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if x.abs().mean() > 0:
                x = norm(conv(x))
        return x


def test_network_that_does_not_trace_needs_an_example(randomise: Randomise, difference: Difference) -> None:
    model = randomise(Undecided()).eval()
    with pytest.raises(
        ValueError,
        match=r"cannot determine which batch norms belong to `convs.0`, `convs.1`: .*give an `example_input`",
    ):
        convert_to_acnet(model)
    acnet = convert_to_acnet(model, images(), init="preserve")
    assert [layer.norm for layer in conversion_report(acnet).layers] == ["norms.0", "norms.1"]
    assert difference(model, acnet, images()) <= 1e-5


class Standardised(nn.Conv2d):
    """Has a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Renamed(nn.Conv2d):
    """Has nothing of its own."""


def kinds() -> nn.Sequential:
    pruned, normalised = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    prune.l1_unstructured(pruned, "weight", 2)  # type: ignore[no-untyped-call]
    patched = nn.Conv2d(3, 3, 3, padding=1)
    patched.__dict__["forward"] = lambda x: x
    return nn.Sequential(
        nn.Conv2d(3, 3, 3),
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 3, 4),
        nn.Conv2d(3, 3, (3, 5)),
        nn.ConvTranspose2d(3, 3, 3),
        Standardised(3, 3, 3),
        Renamed(3, 3, 3),
        pruned,
        torch.nn.utils.parametrizations.weight_norm(normalised),
        patched,
        ACBlock(3, 3, 3),
        nn.Conv2d(3, 3, 5, padding=2),
        nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(1, 2), nn.Conv1d(3, 3, 3)),
    )


def test_report_gives_each_reason() -> None:
    computed = "its weight is computed (parametrisation, pruning, weight or spectral norm)"
    report = conversion_report(convert_to_acnet(kinds(), exclude="12.0", kernel_sizes=3))
    assert [(layer.name, layer.converted, layer.reason) for layer in report.layers] == [
        ("0", True, "no batch norm follows"),
        ("1", False, "1×1 kernel"),
        ("2", False, "even kernel 4×4"),
        ("3", False, "rectangular kernel 3×5"),
        ("4", False, "transposed convolution"),
        ("5", False, "Standardised has a forward of its own"),
        ("6", True, "no batch norm follows"),
        ("7", False, computed),
        ("8", False, computed),
        ("9", False, "Conv2d has a forward of its own"),
        ("10", False, "already a block (ACBlock)"),
        ("11", False, "kernel size 5 not among kernel_sizes"),
        ("12.0", False, "excluded"),
        ("12.2", False, "Conv1d, not a Conv2d"),
    ]
    assert [layer.name for layer in report.converted] == ["0", "6"]
    assert len(report.skipped) == 12
    assert report.reasons()[computed] == 2
    assert report.rows()[0]["layer"] == "3×3 conv 3→3"
    lines = str(report).splitlines()
    assert lines[0].split() == ["convolution", "layer", "becomes", "with", "batch", "norm", "note"]
    assert lines[-1] == "2 of 14 convolutions converted, 0 of them with their batch norm"
    assert len(lines) == 17


@pytest.mark.parametrize(
    ("selection", "converted"),
    [
        ({}, ["layer1.0", "layer1.1", "layer2.0", "head"]),
        ({"include": "layer1"}, ["layer1.0", "layer1.1"]),
        ({"include": ["layer1.0", "head"]}, ["layer1.0", "head"]),
        ({"include": "layer?.0"}, ["layer1.0", "layer2.0"]),
        ({"exclude": "layer*"}, ["head"]),
        ({"include": "layer*", "exclude": ["layer2"]}, ["layer1.0", "layer1.1"]),
        ({"include": lambda name, conv: conv.out_channels == 5}, ["layer1.1", "head"]),
        ({"exclude": lambda name, conv: name == "head"}, ["layer1.0", "layer1.1", "layer2.0"]),
        ({"kernel_sizes": 5}, ["layer1.1"]),
        ({"kernel_sizes": [3, 7]}, ["layer1.0", "layer2.0", "head"]),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_choice_of_convolutions(selection: dict[str, Any], converted: list[str]) -> None:
    model = nn.Sequential()
    model.add_module("layer1", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 5)))
    model.add_module("layer2", nn.Sequential(nn.Conv2d(5, 4, 7)))
    model.add_module("head", nn.Conv2d(4, 5, 3))
    report = conversion_report(convert_to_acnet(model, **selection))
    assert [layer.name for layer in report.converted] == converted


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(2, 2), {}, "Linear has nothing to convert with ACBConv\\(.*\\): no convolution"),
        (nn.Conv2d(2, 2, 1), {}, "none of its 1 convolutions is eligible \\(1 × 1×1 kernel\\)"),
        (small(), {"exclude": "*"}, "none of its 3 convolutions is eligible \\(3 × excluded\\)"),
        (small(), {"include": "layer4"}, "`include`: 'layer4' matches no Conv2d of the model"),
        (torchvision.models.resnet18(), {"exclude": "layer1.0.conv3"}, "did you mean 'layer1.0.conv[12]'"),
        (small(), {"init": "fresh"}, "`init` \\(='fresh'\\) must be one of 'scratch', 'preserve'"),
        (small(), {"asymmetric_size": 5}, "^`0`: `asymmetric_size` \\(=5\\)"),
        (convert_to_acnet(small()), {}, "has been converted already"),
        (
            nn.Sequential(ACBlock(3, 4, 3)),
            {},
            "none of its 1 convolutions is eligible \\(1 × already a block \\(ACBlock\\)\\)",
        ),
    ],
)
def test_errors(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_to_acnet(model, **arguments)


class KeepsItsMode(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> KeepsItsMode:
        return self


def test_batch_norm_that_decides_on_its_mode_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), KeepsItsMode(4), nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect")
    )
    acnet: Any = convert_to_acnet(model)
    assert type(acnet[1]) is KeepsItsMode
    assert isinstance(acnet[2], ACBlock)  # its padding is what its attributes say
    assert "KeepsItsMode has a train of its own" in str(conversion_report(acnet))


NO_NETWORKS = [
    (None, "got NoneType"),
    (nn.Conv2d, "got the class Conv2d; give a network of this class"),
    (nn.Conv2d(3, 4, 3).state_dict(), "got OrderedDict; load the weights into a network first"),
]


@pytest.mark.parametrize(("given", "message"), NO_NETWORKS, ids=[message for _, message in NO_NETWORKS])
def test_what_is_no_network(given: Any, message: str) -> None:
    for function in (convert_to_acnet, fuse_model, fuse_report, stock_state_dict):
        with pytest.raises(TypeError, match=f"expected a network, an nn.Module, {message}"):
            function(given)


@pytest.mark.parametrize("argument", ["include", "exclude"])
@pytest.mark.parametrize("value", [5, [None], ["layer1", 2]], ids=repr)
def test_what_is_no_choice_of_convolutions(argument: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"`{argument}` .* must be a name, a glob"):
        convert_to_acnet(small(), **{argument: value})


def test_report_needs_one_converted_network() -> None:
    acnet = convert_to_acnet(small())
    wrapped = nn.Sequential(nn.Identity(), acnet)
    assert conversion_report(wrapped) is conversion_report(acnet)
    with pytest.raises(ValueError, match="Sequential holds none"):
        conversion_report(small())
    with pytest.raises(ValueError, match=r"several converted networks \(0, 1\)"):
        conversion_report(nn.Sequential(acnet, convert_to_acnet(small())))


def test_root_may_be_the_convolution(difference: Difference) -> None:
    conv = nn.Conv2d(3, 4, 3).eval()
    acnet = convert_to_acnet(conv, init="preserve")
    assert isinstance(acnet, ACBlock)
    assert difference(conv, acnet, images()) <= 1e-5


def test_hooks_are_kept(difference: Difference) -> None:
    model = small().eval()
    seen: list[str] = []
    model[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    model[1].register_forward_hook(lambda *_: seen.append("after"))
    model[3].register_forward_hook(lambda *_: seen.append("between"))
    acnet = convert_to_acnet(model, init="preserve")
    acnet(images())
    assert seen == ["before", "after", "between"]
    assert [layer.norm for layer in conversion_report(acnet).layers] == ["1", None, None]


def test_converted_network_is_copied_saved_and_loaded(difference: Difference, randomise: Randomise) -> None:
    acnet = randomise(convert_to_acnet(small())).eval()
    buffer = io.BytesIO()
    torch.save(acnet, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(acnet), torch.load(buffer, weights_only=False)):
        assert difference(acnet, other, images()) == 0
        assert conversion_report(other) == conversion_report(acnet)
    again = convert_to_acnet(small())
    again.load_state_dict(acnet.state_dict())
    assert difference(acnet, again.eval(), images()) == 0


def test_conversion_of_a_network_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = small()
    for init in ("scratch", "preserve"):
        acnet = convert_to_acnet(model, init=init)
        assert all(tensor.is_meta for tensor in [*acnet.parameters(), *acnet.buffers()])


def test_builder_decides_what_convolutions_become(randomise: Randomise, difference: Difference) -> None:
    model = randomise(small(padding="same")).eval()
    for builder in (ACBConv(gamma_init=0.5), ACBConv(branch_norm=False)):
        acnet = convert(model, builder, init="preserve")
        assert len(conversion_report(acnet).converted) == 3
        assert difference(model, acnet, images()) <= 1e-5
    plain = convert(model, PlainConv())
    assert repr(plain) == repr(model)
    assert difference(model, plain, images()) == 0
    assert conversion_report(plain).reasons() == {f"stays plain by {PlainConv()!r}": 3}
    assert len(conversion_report(convert(torchvision.models.resnet18(), ACBConv(), kernel_sizes=3)).converted) == 16
    odd = randomise(small(stride=(2, 1), padding_mode="reflect")).eval()
    assert difference(odd, convert(odd, ACBConv(), init="preserve"), images()) <= 1e-5


def test_a_builder_must_build_blocks() -> None:
    class Bare(ConvBuilder):
        def __call__(self, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
            return nn.Conv2d(in_channels, out_channels, kernel_size)

    class Shy(PlainConv):
        builds_blocks = True

    with pytest.raises(TypeError, match=r"Bare\(\) builds a Conv2d; convert needs a builder of FusibleConv blocks"):
        convert(small(), Bare())
    with pytest.raises(ValueError, match=r"nothing to convert with Shy\(.*3 × stays plain by Shy"):
        convert(small(), Shy())


def test_the_former_name_of_convert_warns() -> None:
    with pytest.warns(DeprecationWarning, match="convert_with is now convert"):
        converted = surgery.convert_with(small(), ACBConv(), init="preserve")  # type: ignore[deprecated]
    assert len(conversion_report(converted).converted) == 3


def test_norms_of_one_network_do_not_depend_on_the_order_of_registration(randomise: Randomise) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(4, eps=10.0 ** -(i + 2)) for i in range(3))
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            for i in (2, 0, 1):
                x = self.norms[2 - i](self.convs[i](x))
            return x

    acnet = convert_to_acnet(Backwards())
    assert [layer.norm for layer in conversion_report(acnet).layers] == ["norms.2", "norms.1", "norms.0"]
    blocks = [module for module in acnet.modules() if isinstance(module, ACBlock)]
    assert [next(block.norms()).eps for block in blocks] == [1e-4, 1e-3, 1e-2]
    assert not any(isinstance(m, _BatchNorm) for m in acnet.get_submodule("norms").modules())


@pytest.mark.parametrize(
    ("conv", "way_out"), [(DBBConv, r"such as DBBConv\(\)"), ("DBBConv", "must be a builder"), (None, "(=None)")]
)
def test_a_builder_has_to_be_one(conv: Any, way_out: str) -> None:
    with pytest.raises(TypeError, match=way_out):
        convert(nn.Sequential(nn.Conv2d(3, 3, 3)), conv)
