"""What every block can do, by the methods of its base class: one set of tests that all of them run through."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import acnet_pl
from acnet_pl.analysis import complexity, flip_response
from acnet_pl.callbacks.display import conv_table
from acnet_pl.nn import (
    ACBConv,
    ACBPlusConv,
    BlockConv,
    ConvBuilder,
    ConvNorm,
    DBBConv,
    FusibleConv,
    MobileOneConv,
    OREPAConv,
    RepVGGConv,
    convert,
    explicit_branches,
    fuse_model,
)
from acnet_pl.nn.fusible import Branch, Fused, exact, fold_norm
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.surgery.fuse import replace_modules
from acnet_pl.nn.surgery.merge import merge_block, merged_velocity, output_moments

SOURCES = Path(acnet_pl.__file__).parent


class Twice(FusibleConv):
    """The smallest block there is: two convolutions of one shape, each with its batch norm."""

    def __init__(self, i: int, o: int, k: int, *geometry: Any) -> None:
        make: Any = nn.Conv2d
        convs = [make(i, o, k, *geometry[:4], bias=False, padding_mode=geometry[4]) for _ in range(2)]
        like = convs[0]
        shape = (like.kernel_size, like.stride, like.padding, like.dilation, like.groups, like.padding_mode)
        super().__init__(i, o, *shape)
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(o) for _ in range(2))
        self.register_module("norm", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_branches(x)

    def forward_branches(self, x: Tensor) -> Tensor:
        first, second = (norm(conv(x)) for conv, norm in zip(self.convs, self.bns, strict=True))
        out: Tensor = first + second
        return out

    def branches(self) -> list[Branch]:
        weights: list[Any] = [conv.weight for conv in self.convs]
        return [Branch(str(n), "k×k", (weights[n],), self.bns[n]) for n in range(2)]

    def fuse_branches(self) -> dict[str, Fused]:
        return {str(n): fold_norm(exact(b.kernels[0]), None, self.bns[n]) for n, b in enumerate(self.branches())}


class TwiceConv(BlockConv):
    kind = Twice


BUILDERS: list[ConvBuilder] = [
    TwiceConv(),
    ACBConv(gamma_init=1 / 3),
    ACBConv(branch_norm=False, vertical=False),
    ACBConv(branch_norm="scale", gamma_init=0.5),
    ACBConv(position="border"),
    ACBConv(asymmetric_size=3),
    ACBPlusConv(gamma_init=0.2),
    DBBConv(),
    MobileOneConv(copies=2),
    OREPAConv(),
    RepVGGConv(),
]
every_builder = pytest.mark.parametrize("builder", BUILDERS, ids=repr)
LAYERS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 0, "stride": 2, "groups": 2},
    {"kernel_size": 5, "padding": 3, "dilation": 2},
]


@pytest.fixture(params=BUILDERS, ids=repr)
def builder(request: pytest.FixtureRequest) -> ConvBuilder:
    made: ConvBuilder = request.param
    return made


def block_of(builder: ConvBuilder, randomise: Callable[..., nn.Module], **options: Any) -> FusibleConv:
    block = randomise(builder(4, 4, **(options or {"kernel_size": 3, "padding": 1})))
    assert isinstance(block, FusibleConv)
    for scale in block.modules():
        if isinstance(scale, ChannelScale):
            nn.init.uniform_(scale.weight, 0.5, 1.5)
    return block.double()


def images() -> Tensor:
    return torch.randn(6, 4, 11, 11, dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_fused_branches_add_up_to_the_block(builder: ConvBuilder, layer: dict[str, Any], randomise: Any) -> None:
    block = block_of(builder, randomise, **layer).eval()
    branches, fused = block.branches(), block.fuse_branches()
    assert [branch.name for branch in branches] == list(fused)
    assert all(branch.title for branch in branches)
    x = images()
    with torch.no_grad():
        expected = block.forward_branches(x)
        conv = block.fuse()
        torch.testing.assert_close(conv(x), expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(block(x), expected, rtol=1e-11, atol=1e-11)
    assert branches[0].kernels[0].shape == conv.weight.shape
    assert all(kernel.shape == conv.weight.shape for kernel, _ in fused.values())
    trainable = {id(parameter) for parameter in block.parameters()}
    assert all(id(kernel) in trainable for branch in branches for kernel in branch.kernels)


def test_input_gradients_are_those_of_the_branches(builder: ConvBuilder, randomise: Any) -> None:
    block = block_of(builder, randomise).eval().requires_grad_(False)
    x = images().requires_grad_()
    weight = torch.randn_like(block(x))
    with torch.no_grad():
        block(x)  # a kept kernel, if any, is the next call's
    (shortcut,) = torch.autograd.grad((block(x) * weight).sum(), x)
    (defined,) = torch.autograd.grad((block.forward_branches(x) * weight).sum(), x)
    torch.testing.assert_close(shortcut, defined, rtol=1e-10, atol=1e-10)


def test_trains_as_its_branches_do(builder: ConvBuilder, randomise: Any) -> None:
    block = block_of(builder, randomise).train()
    twin = copy.deepcopy(block)
    x = images()
    for _ in range(2):
        loss, defined = block(x).square().mean(), twin.forward_branches(x).square().mean()
        torch.testing.assert_close(loss, defined, rtol=1e-10, atol=1e-10)
        for one, loss_of_one in ((block, loss), (twin, defined)):
            one.zero_grad()
            loss_of_one.backward()  # type: ignore[no-untyped-call]
        for mine, other in zip(block.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-10)
            assert mine.grad is not None
            with torch.no_grad():
                mine.sub_(mine.grad, alpha=0.1)
                other.copy_(mine)
    for name, tensor in block.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_begins_as_a_convolution_and_its_norm(builder: ConvBuilder, norm: bool, bias: bool, randomise: Any) -> None:
    layers = [nn.Conv2d(4, 6, 3, padding=1, bias=bias), *[nn.BatchNorm2d(6)] * norm]
    model = randomise(nn.Sequential(*layers)).double().eval()
    network = convert(model, builder, init="preserve")
    x = images()
    with torch.no_grad(), explicit_branches(network):
        torch.testing.assert_close(network(x), model(x), rtol=1e-12, atol=1e-12)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = torch.optim.SGD(network.train().parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (network(x) * torch.linspace(-1, 1, 6, dtype=x.dtype)[:, None, None] * x[:, :1].square()).mean().backward()
        optimizer.step()
    asleep = [name for name, tensor in network.named_parameters() if torch.equal(tensor, before[name])]
    assert not asleep, "two steps move every parameter of every branch"


def test_becomes_a_convolution_and_its_norm(builder: ConvBuilder, randomise: Any) -> None:
    block = block_of(builder, randomise)
    network = nn.Sequential(block).train()
    x = images()
    expected = copy.deepcopy(network).eval()(x).detach()
    velocity: dict[Tensor, Tensor] = {parameter: torch.randn_like(parameter) for parameter in block.parameters()}
    moved = copy.deepcopy(block)
    with torch.no_grad():
        for mine, parameter in zip(moved.parameters(), block.parameters(), strict=True):
            mine.add_(velocity[parameter], alpha=1e-6)
    rate = (moved.fuse_sum()[0] - block.fuse_sum()[0]).detach() / 1e-6

    carried = merged_velocity(block, velocity)
    moments = output_moments(network, x)
    plain = replace_modules(network, {block: merge_block(block, found) for block, found in moments.items()})
    layer = plain.get_submodule("0")
    assert isinstance(layer, ConvNorm)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(plain).eval()(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(carried[layer.conv.weight], rate, rtol=1e-4, atol=1e-4)
    assert carried.keys() == set(layer.parameters())

    again = nn.Sequential(builder(4, 4, 3, padding=1)).double()
    again.load_state_dict(plain.state_dict())
    assert isinstance(again[0], ConvNorm)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), expected, rtol=1e-10, atol=1e-10)
    untouched = nn.Sequential(builder(4, 4, 3, padding=1))
    untouched.load_state_dict(copy.deepcopy(untouched.state_dict()))
    assert type(untouched[0]) is type(block)


def test_is_shown_counted_and_explained(builder: ConvBuilder, randomise: Any) -> None:
    block = block_of(builder, randomise)
    names = [branch.name for branch in block.branches()]
    assert list(flip_response(block.eval(), images())) == [*names, "folded"]
    table = conv_table(nn.Sequential(block))
    shown = " + ".join(branch.title for branch in block.branches())
    assert next(iter(table.columns[0].cells)) == f"{type(block).__name__} 3×3 ({shown})"
    fused = complexity(fuse_model(nn.Sequential(block)), (4, 8, 8)).macs
    assert fused == 4 * 4 * 9 * 8 * 8
    assert (complexity(block, (4, 8, 8)).macs > fused) == bool(block.share_apart)


def concrete_blocks() -> dict[str, Path]:
    """Blocks of the package by name, with the file of each."""
    found, frontier = {}, {"FusibleConv"}
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES.rglob("*.py")}
    while frontier:
        bases, frontier = frontier, set()
        for path, tree in files.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") in bases for base in node.bases):
                    found[node.name] = path
                    frontier.add(node.name)
    return found


def test_no_file_but_its_own_asks_for_a_concrete_block() -> None:
    blocks = concrete_blocks()
    del blocks["ConvNorm"]  # the plain layer, which every block becomes
    assert "ACBlock" in blocks
    asked = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            questions: list[ast.AST] = []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                questions = [*node.args[1:]]
            elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node):
                questions = [node]
            names = {part.id for question in questions for part in ast.walk(question) if isinstance(part, ast.Name)}
            asked += [f"{path.name}: {name}" for name in names & blocks.keys() if blocks[name] != path]
    assert not asked


def test_the_former_name_of_fuse_kernel_warns() -> None:
    block = ConvNorm(2, 2, 3)
    with pytest.warns(DeprecationWarning, match=r"fold\(\) is now fuse_kernel\(\)"):
        kernel, _ = block.fold()  # type: ignore[deprecated]
    assert torch.equal(kernel, block.fuse_kernel()[0])
