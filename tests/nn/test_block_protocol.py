"""What every block can do, by the methods of its base class: one set of tests that all of them run through."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nn.builders import BUILDERS, TwiceConv
from tests.nn.operations import Operations
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import acnet_pl
from acnet_pl.analysis import complexity, flip_response
from acnet_pl.callbacks.display import conv_table
from acnet_pl.nn import (
    ConvBuilder,
    ConvNorm,
    FusibleConv,
    FusionError,
    convert,
    explicit_branches,
    fuse_model,
)
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.surgery.late import fuse_block, fused_velocity, output_moments
from acnet_pl.nn.surgery.replacing import replace_modules

SOURCES = Path(acnet_pl.__file__).parent


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


@pytest.mark.parametrize("builder", [made for made in BUILDERS if not isinstance(made, TwiceConv)], ids=repr)
def test_last_norms_are_fused_together_in_eval_mode(builder: ConvBuilder, randomise: Any) -> None:
    """The number of operations decides the time of one image: one root for the last norms, one for each inner norm."""
    block = block_of(builder, randomise).eval()
    last = [branch.norm for branch in block.branches()] + [block.norm]
    inner = [norm for norm in block.norms() if norm not in last]
    with torch.no_grad(), Operations() as operations:
        block(images())
    assert sum("rsqrt" in name for name in operations.names) == 1 + len(inner)
    assert sum("convolution" in name for name in operations.names) == 1
    assert not any("pad" in name for name in operations.names), "smaller kernels are added in place"


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


def test_gradients_are_the_same_with_checkpointing(builder: ConvBuilder, randomise: Any) -> None:
    """In eval mode: a second forward pass in train mode would move running statistics, which DBB's padding uses."""
    block = block_of(builder, randomise).eval()
    x, twin = images(), copy.deepcopy(block)
    torch.autograd.backward(checkpoint(block, x, use_reentrant=False).square().mean())
    torch.autograd.backward(twin(x).square().mean())
    for mine, other in zip(block.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["all", "first", "last"])
def test_trains_with_frozen_norms_as_its_branches_do(builder: ConvBuilder, frozen: str, randomise: Any) -> None:
    block = block_of(builder, randomise).train()
    norms = list(block.norms())
    for norm in {"all": norms, "first": norms[:1], "last": norms[-1:]}[frozen]:
        norm.eval().requires_grad_(frozen == "first")
    statistics = copy.deepcopy([norm.state_dict() for norm in norms if not norm.training])
    twin, x = copy.deepcopy(block), images().requires_grad_()
    results = []
    for out, made in ((block(x), block), (twin.forward_branches(x), twin)):
        wanted = [x, *(parameter for parameter in made.parameters() if parameter.requires_grad)]
        results.append([out, *torch.autograd.grad(out.square().mean(), wanted), *made.buffers()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)
    assert str([norm.state_dict() for norm in norms if not norm.training]) == str(statistics)
    if frozen == "all" or len(norms) == 1:
        torch.testing.assert_close(block.fuse()(x), block(x), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(FusionError, match=r"call model.eval\(\) first"):
            block.fuse()


TWO_PROCESSES = """
import sys, torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
sys.path.insert(0, sys.argv[1])
from tests.distributed.sync_norm import allow_sync_batch_norm_on_the_cpu
from tests.nn.builders import BUILDERS

def made(builder):
    torch.manual_seed(5)
    return builder(4, 4, 3, padding=1).double().train()

def process(rank, x, expected):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    allow_sync_batch_norm_on_the_cpu()
    mine = [[0, 2], [1, 3, 4, 5]][rank]
    for builder, (out_of_all, grad_of_all, *rest) in zip(BUILDERS, expected):
        block = nn.SyncBatchNorm.convert_sync_batchnorm(made(builder))
        own = x[mine].requires_grad_()
        out = block(own)
        grads = torch.autograd.grad(out.pow(3).sum(), [own, *block.parameters()])
        for gradient in grads[1:]:
            dist.all_reduce(gradient)
        wanted = [out_of_all[mine], grad_of_all[mine], *rest]
        said = lambda message: f"{builder!r}: {message}"
        torch.testing.assert_close([out, *grads, *block.buffers()], wanted, rtol=1e-9, atol=1e-9, msg=said)
        block.eval()
        torch.testing.assert_close(block.fuse()(own), block(own), rtol=1e-10, atol=1e-10)
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, expected = torch.randn(6, 4, 7, 7, dtype=torch.float64, requires_grad=True), []
    for builder in BUILDERS:
        block = made(builder)
        out = block(x)
        grads = torch.autograd.grad(out.pow(3).sum(), [x, *block.parameters()])
        expected.append([t.detach() for t in (out, *grads, *block.buffers())])
    mp.start_processes(process, (x.detach(), expected), nprocs=2, start_method="fork")
    print(len(expected), "equal")
"""


def test_two_processes_with_synchronised_norms_train_as_one(tmp_path: Path, process: Callable[..., Any]) -> None:
    """Batches of 2 and 4 images; one pair of processes for all blocks."""
    arguments = ["-W", "error", "-c", TWO_PROCESSES, Path(__file__).parents[2], tmp_path / "group"]
    done = process(arguments, tmp_path)
    assert done.stdout == f"{len(BUILDERS)} equal\n", done.stderr


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

    carried = fused_velocity(block, velocity)
    moments = output_moments(network, x)
    plain = replace_modules(network, {block: fuse_block(block, found) for block, found in moments.items()})
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
    assert list(flip_response(block.eval(), images())) == [*names, "fused"]
    table = conv_table(nn.Sequential(block))
    shown = " + ".join(branch.title for branch in block.branches())
    assert next(iter(table.columns[0].cells)) == f"{type(block).__name__} 3×3 ({shown})"
    assert ": None" not in repr(block)
    rows = block._repr_html_().split("<tbody>")[1].split("<tr>")[1:]
    titles = [branch.title for branch in block.branches()] + ["after the sum"] * (block.norm is not None)
    assert [row.split("</td>")[0] for row in rows] == [f"<td>{title}" for title in titles]
    fused = complexity(fuse_model(nn.Sequential(block)), (4, 8, 8)).macs
    assert fused == 4 * 4 * 9 * 8 * 8
    assert (complexity(block, (4, 8, 8)).macs > fused) == bool(block.share_apart)


def with_method(builder: ConvBuilder, name: str, method: Any) -> FusibleConv:
    """A block whose class has a method of its own, with those of the base class for the rest."""
    block = builder(4, 4, 3, padding=1)
    assert isinstance(block, FusibleConv)
    base = type(block)
    own = {"__module__": __name__, name: lambda self, *args: method(getattr(base, name)(self, *args))}
    block.__class__ = type("Own", (base,), own)
    return block.double().eval()


@pytest.mark.parametrize("name", ["forward", "forward_branches"])
def test_a_subclass_that_computes_something_else_is_not_fused(builder: ConvBuilder, name: str) -> None:
    block = with_method(builder, name, torch.relu)
    for fuse in (block.fuse, block.fuse_kernel, lambda: fuse_model(nn.Sequential(block)), lambda: fuse_block(block)):
        with pytest.raises(FusionError, match=f"Own has a {name} of its own with the "):
            fuse()


def test_a_subclass_with_another_definition_has_to_compute_it(builder: ConvBuilder) -> None:
    def doubled(found: Any) -> Any:
        return found * 2 if isinstance(found, Tensor) else {n: (2 * k, 2 * b) for n, (k, b) in found.items()}

    block = with_method(builder, "fuse_branches", doubled)
    with pytest.raises(FusionError, match="Own has the forward of a base class"):
        block.fuse()


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
