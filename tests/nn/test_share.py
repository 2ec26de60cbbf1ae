"""Branch statistics from a share of the batch: against their definition, over two processes, and what they cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, FusionError, PlainConv, explicit_branches
from acnet_pl.nn.one_conv import train_by_share

GEOMETRIES: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": (1, 2), "padding_mode": "reflect", "stride": 2, "groups": 2},
    {"dilation": 2, "position": "border", "padding": 3},
    {"kernel_size": 5, "asymmetric_size": 3, "padding": "same", "padding_mode": "circular", "vertical": False},
]


def make(share: float = 0.25, momentum: float | None = 0.1, **options: Any) -> ACBlock:
    torch.manual_seed(0)
    block = ACBlock(4, 6, **({"kernel_size": 3} | options), statistics_share=share).double()
    for norm in block.norms():
        norm.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in norm.state_dict().items()})
        norm.momentum = momentum
    return block.train()


def images(count: int = 8) -> Tensor:
    scale = torch.linspace(0.5, 3, count, dtype=torch.float64).view(-1, 1, 1, 1)  # images differ: the share tells
    return scale * torch.randn(count, 4, 9, 9, dtype=torch.float64) + scale


def definition(block: ACBlock, x: Tensor, count: int) -> Tensor:
    """Branches scaled by the share's γ/σ; mean and scale of their sum are the batch's.

    So is the running mean of the sum; the running variances are the share's, which count by the contrast of its sum.
    """
    x = block._shape.pad(x)
    layers, norms = block._layers(), [norm for norm in block.norms() if isinstance(norm, nn.BatchNorm2d)]
    total, affine, eps = torch.zeros(()), torch.zeros(()), norms[0].eps
    shares = []
    for name, conv, norm, _ in layers:
        assert isinstance(norm, nn.BatchNorm2d)
        out = conv(block.geometry[name].pad_or_crop(x))
        values = out[:count].transpose(0, 1).flatten(1)
        shares.append((values.mean(1), values.var(1, unbiased=False)))
        total = total + out * (norm.weight / (shares[-1][1] + eps).sqrt()).view(-1, 1, 1)
        affine = affine + norm.bias
    whole, share = (part.transpose(0, 1).flatten(1) for part in (total, total[:count]))
    scales = [norm.weight / (var + eps).sqrt() for norm, (_, var) in zip(norms, shares, strict=True)]
    with torch.no_grad():
        off = whole.mean(1) - share.mean(1)
        of_sum = eps * torch.stack(scales).square().sum(0)
        contrast = (share.var(1, unbiased=False) + of_sum) / (whole.var(1, unbiased=False) + of_sum)
        running = torch.stack([norm.running_var for norm in norms if norm.running_var is not None])
        if len(running) == len(norms):  # the contrast of a sum with running scales, were the branches unrelated
            weights = torch.stack([norm.weight for norm in norms]).square()
            ratios = (torch.stack([var for _, var in shares]) + eps) / (running + eps)
            arithmetic = (weights * ratios).sum(0) * (weights / ratios).sum(0) / weights.sum(0).square()
            contrast = contrast * (1 + (1 - count / len(x)) * (arithmetic - 1))
        unbiased = whole.shape[1] / (whole.shape[1] - 1)
        for norm, (mean, var), scale in zip(norms, shares, scales, strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1
            momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            moved = mean + off * scale / sum(other.square() for other in scales)
            norm.running_mean += momentum * (moved - norm.running_mean)
            weight = momentum * (1 + (1 - momentum) * (contrast - 1))
            norm.running_var *= 1 - momentum
            norm.running_var += momentum * var * unbiased
            norm.running_var /= 1 - momentum + weight
    of_sum = eps * torch.stack(scales).square().sum(0)
    std = ((share.var(1, unbiased=False) + of_sum) / (whole.var(1, unbiased=False) + of_sum)).sqrt()
    return (total - whole.mean(1).view(-1, 1, 1)) * std.view(-1, 1, 1) + affine.view(-1, 1, 1)


def results(block: ACBlock, forward: Any, x: Tensor) -> list[Tensor]:
    """Output, gradients and buffers after two steps."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    for _ in range(2):
        out = forward(x)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * weights).sum(), [x, *block.parameters()])
    return [out.detach(), *grads, *(buffer.double() for buffer in block.buffers())]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-10, atol=1e-12 * max(theirs.abs().flatten().tolist(), default=0)
        )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_is_the_batch_norm_of_its_definition(geometry: dict[str, Any], memory_format: torch.memory_format) -> None:
    block, x = make(**geometry), images().to(memory_format=memory_format)
    explicit, defined = copy.deepcopy(block), copy.deepcopy(block)
    expected = results(defined, lambda x: definition(defined, x, 2), x)
    assert_equal(results(block, block, x), expected)
    with explicit_branches(explicit):
        assert_equal(results(explicit, explicit, x), expected)


def test_cumulative_running_statistics() -> None:
    block, x = make(momentum=None), images()
    defined = copy.deepcopy(block)
    assert_equal(results(block, block, x), results(defined, lambda x: definition(defined, x, 2), x))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_statistics_of_all_images_make_the_exact_block(geometry: dict[str, Any]) -> None:
    block, exact, x = make(**geometry), make(1.0, **geometry), images()
    found = results(
        block, lambda x: train_by_share(block._shape, block._layers(), block._shape.pad(x), len(x), block.at_once), x
    )
    assert_equal(found, results(exact, exact, x))


@pytest.mark.parametrize(("count", "share", "used"), [(1, 0.125, 1), (3, 0.125, 2), (30, 0.1, 3), (16, 1 / 3, 6)])
def test_at_least_two_images_and_rounded_up(count: int, share: float, used: int) -> None:
    block, x = make(share), images(count)
    defined = copy.deepcopy(block)
    assert_equal(results(block, block, x), results(defined, lambda x: definition(defined, x, used), x))


@pytest.mark.parametrize("part", ["frozen", "no affine", "another eps", "no running statistics", "hook"])
def test_norms_that_differ(part: str) -> None:
    block, exact, x = make(), make(1.0), images()
    for other in (block, exact):
        assert other.square_norm is not None
        assert other.horizontal is not None
        if part == "frozen":
            other.square_norm.eval()
        elif part == "no affine":
            other.square_norm = nn.BatchNorm2d(6, affine=False).double()
        elif part == "another eps":
            other.square_norm.eps = 0.1
        elif part == "no running statistics":
            for norm in other.norms():
                norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        else:
            other.horizontal.register_forward_hook(lambda *args: args[-1] * 2)
    if part == "hook":
        reference = make()
        for norm in (*block.norms(), *reference.norms()):
            norm.eps = 0
        out = block(x)  # computed branch by branch: the second branch is normalised, so its factor is without effect
        torch.testing.assert_close(out, definition(reference, x, 2), rtol=1e-10, atol=1e-10)
    else:
        both = torch.cat([x[:2], x[:2]])  # a batch whose statistics are those of its first two images
        torch.testing.assert_close(block(both), exact(both), rtol=1e-10, atol=1e-10)


def test_gradcheck() -> None:
    block = make(0.5)
    names = [name for name, _ in block.named_parameters()]

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        out: Tensor = functional_call(block, dict(zip(names, parameters, strict=True)), (x,))
        return out

    inputs = [images(4)[..., :5, :5], *(p.detach().clone() for p in block.parameters())]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(forward, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, inputs, fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # which jvp itself uses
def test_functional_transforms() -> None:
    block, x = make(0.5), images(4)
    for norm in block.norms():  # PyTorch's own batch norm cannot update running statistics there either
        norm.track_running_stats, norm.num_batches_tracked = False, None
        norm.running_mean = norm.running_var = None

    def loss(x: Tensor) -> Tensor:
        return block(x).square().sum()  # type: ignore[no-any-return]

    expected = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    x = x.detach()
    torch.testing.assert_close(grad(loss)(x), expected)
    torch.testing.assert_close(jvp(loss, (x,), (x,))[1], (expected * x).sum())
    batches = torch.stack([x, x.flip(0) + 1])
    torch.testing.assert_close(vmap(block)(batches), torch.stack([block(x) for x in batches]))


def test_compiled_with_batches_of_any_size() -> None:
    block, exact = make(), make()
    compiled = torch.compile(block, backend="aot_eager")
    for count in (64, 40, 30, 2):
        x = images(count)
        torch.testing.assert_close(compiled(x), exact(x))
    assert_equal([*block.buffers()], [*exact.buffers()])


@pytest.mark.parametrize("fake", [False, True])
def test_trains_without_memory(fake: bool) -> None:
    block, x = make(), images()
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext():
        out = block(x) if fake else block.to("meta")(x.to("meta"))
        out.sum().backward()
    assert out.shape == (8, 6, 7, 7)


def test_gradients_accumulate_over_backward_passes_of_one_graph() -> None:
    block, x = make(), images().requires_grad_()
    loss = block(x).square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.autograd.backward(loss, retain_graph=True)
    torch.autograd.backward(loss)
    torch.testing.assert_close(x.grad, 2 * once)


def test_fuses_as_ever() -> None:
    block, x = make(), images()
    with pytest.raises(FusionError, match="train mode"):
        block.fuse()
    block(x)
    block.eval()
    exact = make(1.0)
    exact.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), exact.eval().forward_branches(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(block.fuse()(x), exact.forward_branches(x), rtol=1e-10, atol=1e-10)


def training_cost(conv: ConvBuilder) -> tuple[int, int]:
    """Multiplications of a forward and backward pass, and bytes saved for the backward pass, without parameters."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (conv(8, 8, 3, padding=1), nn.ReLU())]
    net, x = nn.Sequential(*layers), torch.randn(32, 8, 16, 16, requires_grad=True)
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = net(x).sum()
        torch.autograd.backward(loss)
    return counter.get_total_flops(), sum(saved.values())


def test_costs_little_more_than_the_plain_layer() -> None:
    (plain, plain_bytes), (share, share_bytes) = map(training_cost, (PlainConv(), ACBConv(statistics_share=0.125)))
    assert share / plain == pytest.approx(1 + 15 / 9 / 8, abs=1e-3)
    assert share_bytes <= 1.2 * plain_bytes


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan"), True, "0.5", None])
def test_impossible_shares(share: Any) -> None:
    with pytest.raises(ValueError, match=r"`statistics_share` \(=.*greater than 0 and at most 1"):
        ACBlock(4, 6, 3, statistics_share=share)
    with pytest.raises(ValueError, match=r"`statistics_share` \(=.*greater than 0 and at most 1"):
        make().statistics_share = share


@pytest.mark.parametrize("branch_norm", [False, "scale"])
def test_needs_norms_in_the_branches(branch_norm: Any) -> None:
    with pytest.raises(ValueError, match="needs branch_norm=True"):
        ACBlock(4, 6, 3, branch_norm=branch_norm, statistics_share=0.5)
    assert ACBlock(4, 6, 3, branch_norm=branch_norm, statistics_share=1).statistics_share == 1


def test_one_value_per_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        make()(torch.randn(1, 4, 3, 3, dtype=torch.float64))


def test_a_hook_on_a_norm_is_called_and_makes_the_block_exact() -> None:
    block, exact, x, calls = make(), make(1.0), images(), []
    assert block.square_norm is not None
    handle = block.square_norm.register_forward_hook(lambda *_: calls.append(0))
    torch.testing.assert_close(block(x), exact(x), rtol=1e-10, atol=1e-10)
    assert calls == [0]
    handle.remove()
    assert not torch.allclose(block(x), exact(x))


def test_an_image_without_batch_dimension_is_refused_as_by_the_exact_block() -> None:
    for options in ({"share": 0.25}, {"share": 0.25, "at_once": True}, {"share": 1.0, "at_once": True}):
        with pytest.raises(ValueError, match="expected 4D input"):
            make(**options)(torch.randn(4, 20, 20, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 1e-2, 1e-5])
def test_the_scale_of_gamma_is_the_scale_of_the_output(scale: float) -> None:
    """So it is in a batch norm; and at γ = 0 its gradient is that of a small γ."""
    block, small, x = make(), make(), images()
    with torch.no_grad():
        for norm in small.norms():
            norm.weight.mul_(scale)
        for norm in (*block.norms(), *small.norms()):
            norm.bias.zero_()
    torch.testing.assert_close(small(x) / scale, block(x), rtol=1e-5, atol=1e-6)


def test_gradients_where_all_gamma_are_zero() -> None:
    found = []
    for gamma in (0.0, 1e-5):
        block = make()
        for norm in block.norms():
            nn.init.constant_(norm.weight, gamma)
        out = block(images())
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        loss = (out * weights).sum()
        found.append(torch.autograd.grad(loss, [norm.weight for norm in block.norms()], create_graph=True))
        torch.autograd.grad(torch.stack(found[-1]).square().sum(), [*block.parameters()], allow_unused=True)
    # The share's contrast is not corrected at γ = 0, where there is no sum to take it from.
    for zero, small in zip(*found, strict=True):
        assert zero.isfinite().all()
        torch.testing.assert_close(zero.sign(), small.sign())


def test_a_channel_that_is_constant_in_the_share() -> None:
    """Its output has the scale that it has in the exact block, not next to none, and so it has in eval mode."""
    torch.manual_seed(0)
    block = ACBlock(8, 8, 3, padding=1, groups=8, statistics_share=0.25).double()
    x = torch.randn(32, 8, 8, 8, dtype=torch.float64)
    x[:8, 0] = 0
    train = block(x)[:, 0]
    assert train.std().item() == pytest.approx(3**0.5, rel=0.01)
    sparse = torch.randn(600, 64, 8, 8, 8, dtype=torch.float64) * (torch.rand(600, 64, 8, 1, 1) < 0.1)
    with torch.no_grad():
        trained = torch.stack([block(batch).std() for batch in sparse])
        block.eval()
        evaluated = torch.stack([block(batch).std() for batch in sparse])
    assert evaluated.mean().item() == pytest.approx(trained[-100:].mean().item(), rel=0.1)


@pytest.mark.parametrize(("size", "common"), [((32, 1), 0.0), ((64, 7), 0.9), ((16, 7), 0.5)])
def test_running_statistics_give_the_scale_of_training(size: tuple[int, int], common: float) -> None:
    """Also where the share has few values, or the images differ more than their pixels do."""
    torch.manual_seed(0)
    block = ACBlock(16, 16, 3, padding=1, statistics_share=0.125)
    count, side = size

    def batch() -> Tensor:
        own, images = torch.randn(count, 16, side, side), torch.randn(count, 16, 1, 1)
        mixed: Tensor = own * (1 - common) ** 0.5 + images * common**0.5
        return mixed

    with torch.no_grad():
        trained = torch.stack([block(batch()).std() for _ in range(200)])[-100:].mean()
        block.eval()
        evaluated = torch.stack([block(batch()).std() for _ in range(30)]).mean()
    assert evaluated.item() == pytest.approx(trained.item(), rel=0.05)


def _blank(x: Tensor) -> Tensor:
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.3, torch.full_like(x, 0.1), x)


def _loud(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1] * 10 * torch.exp(1.5 * torch.randn(len(x), 1, 1, 1)), x[:, 1:]], 1)


def _white(x: Tensor) -> Tensor:
    return 1 + x * torch.where(torch.rand(len(x), 1, 1, 1) < 0.1, 1, 0.005)


@pytest.mark.parametrize("change", [_blank, _loud, _white, lambda x: x * 1e-21], ids=["blank", "loud", "white", "dark"])
def test_running_variances_are_those_of_the_exact_block_whatever_the_images(change: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    groups = 8 if change is _loud else 1
    block, exact = (ACBlock(8, 8, 3, padding=1, groups=groups, statistics_share=share) for share in (0.125, 1.0))
    exact.load_state_dict(block.state_dict())
    found = []
    with torch.no_grad():
        for step in range(200):
            x = change(torch.randn(16, 8, 16, 16))
            block(x)
            exact(x)
            if step >= 100:
                found.append([torch.stack([norm.running_var for norm in one.norms()]) for one in (block, exact)])  # type: ignore[misc]
    ours, theirs = (torch.stack(part).mean(0) for part in zip(*found, strict=True))
    assert (ours / theirs).median() == pytest.approx(1, rel=0.25)


def test_a_deep_network_has_the_scale_of_training_in_eval_mode() -> None:
    """Running variances that are a little too large in the mean would make each block's outputs smaller."""
    torch.manual_seed(0)
    blocks = [ACBlock(16, 16, 3, padding=1, statistics_share=0.125, gamma_init=1 / 3) for _ in range(24)]
    network, ratios = nn.Sequential(*[layer for block in blocks for layer in (block, nn.ReLU())]), []
    with torch.no_grad():
        for step in range(240):
            x = torch.randn(128, 16, 4, 4) + torch.randn(128, 16, 1, 1)
            trained = network.train()(x).std()
            if step >= 100 and step % 10 == 0:
                ratios.append((network.eval()(x).std() / trained).item())
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # which forward mode itself uses
def test_forward_mode_derivatives() -> None:
    block, x = make(), images()
    for norm in block.norms():
        norm.track_running_stats = False
    direction = torch.randn_like(x)
    expected = torch.func.grad(lambda t: block(x + t * direction).square().sum())(x.new_zeros(()))
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(block(forward_ad.make_dual(x, direction)).square().sum())
    torch.testing.assert_close(out.tangent, expected)


TWO_PROCESSES = """
import sys, torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
sys.path.insert(0, sys.argv[1])
from test_share import assert_equal, definition, images, make

# Images of each process, and how many of them are in its share: 1/4, at least 2, at most all.
BATCHES = [((8, 12), (2, 3)), ((2, 10), (2, 3)), ((1, 9), (1, 3)), ((0, 8), (0, 2)), ((2, 1), (2, 1))]

def network():
    # The second block has a hook, and so goes branch by branch.
    blocks = [make(), make()]
    blocks[1].horizontal.register_forward_hook(lambda *args: args[-1] * 2)
    return blocks

def results(block, forward, x):
    x = x.clone().requires_grad_()
    out = forward(x)
    grads = torch.autograd.grad(out.square().sum(), [x, *block.parameters()])
    return out.detach(), *grads, *block.buffers()

def expected():
    for sizes, shares in BATCHES:
        for block in network():
            x = images(sum(sizes))
            yield x, results(block, lambda x: definition(block, x, sum(shares)), x)

def process(rank, expected):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    for sizes, shares in BATCHES:
        first, last = sum(shares[:rank]), sum(shares) + sizes[0] - shares[0]
        rest = [range(sum(shares), last), range(last, sum(sizes))][rank]
        mine = [*range(first, first + shares[rank]), *rest]
        for block in network():
            block = nn.SyncBatchNorm.convert_sync_batchnorm(block)
            x, (out, grad, *others) = expected.pop(0)
            found = results(block, block, x[mine])
            own = 2 + len(list(block.parameters()))
            for gradient in found[2:own]:
                dist.all_reduce(gradient)
            assert_equal(found, [out[mine], grad[mine], *others])
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.set_num_threads(1)
    mp.start_processes(process, (list(expected()),), nprocs=2, start_method="fork")
    print("equal")
"""


def test_synchronised_batch_norms_have_the_statistics_of_all_processes(
    tmp_path: Path, process: Callable[..., Any]
) -> None:
    """Two processes compute what one does with all images, its share being theirs, whatever images each has."""
    arguments = ["-W", "error", "-c", TWO_PROCESSES, Path(__file__).parent, tmp_path / "group"]
    done = process(arguments, tmp_path, seconds=120)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
