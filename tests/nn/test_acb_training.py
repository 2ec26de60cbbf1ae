"""The block's own ways to train are its definition: outputs, gradients and running statistics of explicit branches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.nn.operations import Operations
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import ACBlock, convert, explicit_branches, fuse_model, stock_state_dict
from acnet_pl.nn.conv import ACBConv
from acnet_pl.nn.scale import ChannelScale


def make(momentum: float | None = 0.1, **options: Any) -> ACBlock:
    block = ACBlock(4, 6, **({"kernel_size": 3, "padding": 1} | options))
    for module in block.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
        if isinstance(module, (_BatchNorm, ChannelScale)):
            module.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in module.state_dict().items()})
    return block.train()


def results(block: ACBlock, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """Output, gradients and buffers of two steps."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = block(x)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
        grads = torch.autograd.grad((out * weights).sum(), [x, *block.parameters()])
    return [out.detach(), *grads, *(buffer.clone() for buffer in block.buffers())]


def added_in_place(block: ACBlock, x: Tensor) -> int:
    with Operations() as operations:
        block(x)
    sums = [name for name in operations.names if name in ("aten.add.Tensor", "aten.add_.Tensor")]
    return sums.count("aten.add_.Tensor") - sum(norm.training for norm in block.norms())  # num_batches_tracked += 1


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("branch_norm", [True, False, "scale"])
def test_trains_as_its_explicit_branches(momentum: Any, frozen: bool, autocast: bool, branch_norm: Any) -> None:
    block, x = make(momentum, branch_norm=branch_norm), torch.randn(3, 4, 7, 7)
    if frozen:
        next(block.norms()).eval()
    explicit = copy.deepcopy(block)
    found = results(block, x, autocast)
    with explicit_branches(explicit):
        expected = results(explicit, x, autocast)
    exact = branch_norm is True and not autocast
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        if exact:  # the same operations in the same order
            assert torch.equal(ours, theirs)
        else:
            tolerance = (0.03 if autocast else 1e-4) * float(theirs.float().abs().max())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"statistics_share": 0.5},
        {"vertical": False, "stride": 2, "padding_mode": "reflect"},
        {"kernel_size": 5, "asymmetric_size": 3, "dilation": 2},
        {"position": "border"},
    ],
)
def test_at_once_it_is_the_same_block(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    apart = make(**options).double()
    x = torch.randn(6, 4, 11, 11, dtype=torch.float64).to(memory_format=memory_format)
    at_once = copy.deepcopy(apart)
    at_once.at_once = True
    for ours, theirs in zip(results(at_once, x), results(apart, x), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))
    assert at_once(x).is_contiguous(memory_format=memory_format)
    with Operations() as operations:
        at_once(x)
    assert sum("convolution" in name for name in operations.names) == 1 + (apart.statistics_share < 1)


@pytest.mark.parametrize("case", ["groups", "frozen", "momentum", "no statistics", "synchronised", "used twice"])
def test_what_is_not_one_batch_norm_goes_branch_by_branch(case: str) -> None:
    apart, x = make(groups=2 if case == "groups" else 1), torch.randn(6, 4, 7, 7)
    assert apart.square_norm is not None
    if case == "frozen":
        apart.square_norm.eval()
    elif case == "momentum":
        apart.square_norm.momentum = 0.5
    elif case == "no statistics":
        apart.square_norm.track_running_stats = False
        apart.square_norm.running_mean = apart.square_norm.running_var = None
    elif case == "used twice":
        apart.horizontal_norm = apart.vertical_norm
    elif case == "synchronised":
        apart = nn.SyncBatchNorm.convert_sync_batchnorm(apart)  # type: ignore[no-untyped-call]
    at_once = copy.deepcopy(apart)
    at_once.at_once = True
    for ours, theirs in zip(results(at_once, x), results(apart, x), strict=True):
        assert torch.equal(ours, theirs)


def test_adds_in_place_where_it_may() -> None:
    x = torch.randn(3, 4, 7, 7)
    assert added_in_place(make(), x) == 2
    assert added_in_place(make(vertical=False), x) == 1
    with torch.no_grad():
        assert added_in_place(make(), x) == 2
    block = make()
    with explicit_branches(block):
        assert added_in_place(block, x) == 0
    hooked, seen = make(), []
    assert hooked.square_norm is not None
    hooked.square_norm.register_forward_hook(lambda *args: seen.append(args[-1]))
    assert added_in_place(hooked, x) == 0
    assert hooked.square is not None
    torch.testing.assert_close(seen[0], copy.deepcopy(hooked.square_norm)(hooked.square(x)))


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.Identity(), nn.Sequential(nn.BatchNorm2d(6), nn.Tanh())])
def test_other_norms_may_keep_their_output(norm: nn.Module) -> None:
    block, x = make(), torch.randn(3, 4, 7, 7)
    setattr(block, "square_norm", norm)  # noqa: B010  (whoever experiments)
    explicit = copy.deepcopy(block)
    found = results(block, x)
    with explicit_branches(explicit):
        for ours, theirs in zip(found, results(explicit, x), strict=True):
            assert torch.equal(ours, theirs)


def test_synchronised_batch_norms() -> None:
    block = nn.SyncBatchNorm.convert_sync_batchnorm(make().double())  # type: ignore[no-untyped-call]
    explicit, x = copy.deepcopy(block), torch.randn(3, 4, 7, 7, dtype=torch.float64)
    found = results(block, x)
    with explicit_branches(explicit):
        for ours, theirs in zip(found, results(explicit, x), strict=True):
            assert torch.equal(ours, theirs)


def test_vmap_over_one_branch() -> None:
    block, x = make().double(), torch.randn(3, 4, 7, 7, dtype=torch.float64)
    for norm in block.norms():
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    kernels = torch.randn(5, 6, 4, 1, 3, dtype=torch.float64)
    found = vmap(lambda kernel: functional_call(block, {"horizontal.weight": kernel}, (x,)))(kernels)
    for out, kernel in zip(found, kernels, strict=True):
        torch.testing.assert_close(out, functional_call(block, {"horizontal.weight": kernel}, (x,)))


@pytest.mark.parametrize("options", [{}, {"statistics_share": 0.5}, {"at_once": True}])
def test_an_ensemble_by_vmap(options: dict[str, Any]) -> None:
    blocks = [make(**options).double() for _ in range(3)]
    for block in blocks if "statistics_share" in options else ():
        for norm in block.norms():
            norm.track_running_stats, norm.running_mean, norm.running_var, norm.num_batches_tracked = False, *[None] * 3
    parameters, buffers = stack_module_state(blocks)  # type: ignore[arg-type]
    x = torch.randn(4, 4, 7, 7, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(blocks[0], (parameters, buffers), (x,))
        return out.square().sum()

    found = vmap(grad(loss))(parameters, buffers)
    for index, block in enumerate(blocks):
        expected = torch.autograd.grad(block(x).square().sum(), [*block.parameters()])
        for (name, _), gradient in zip(block.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[name][index], gradient)


def test_scales_train_with_one_convolution() -> None:
    with Operations() as operations:
        make(branch_norm="scale")(torch.randn(3, 4, 7, 7))
    assert sum("conv" in name for name in operations.names) == 1


def test_scales_are_like_the_scales_of_norms() -> None:
    block = ACBlock(4, 6, 3, branch_norm="scale", gamma_init=0.25)
    scales = {name: p for name, p in block.named_parameters() if "scale" in name}
    assert list(scales) == ["square_scale.weight", "horizontal_scale.weight", "vertical_scale.weight"]
    assert all(p.shape == (6,) and (p == 0.25).all() for p in scales.values())
    assert block.norm is not None
    assert (block.norm.weight == 1).all()


@pytest.mark.parametrize("init", ["scratch", "preserve"])
def test_a_stock_network_becomes_scaled_and_stock_again(init: Any) -> None:
    stock = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    stock[1].load_state_dict({name: torch.rand_like(t.double()) + 0.5 for name, t in stock[1].state_dict().items()})
    acnet = convert(stock, ACBConv(branch_norm="scale", gamma_init=0.5), init=init).eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    if init == "preserve":
        torch.testing.assert_close(acnet(x), stock.eval()(x), rtol=1e-12, atol=1e-12)
    acnet.train()
    optimizer = torch.optim.SGD(acnet.parameters(), lr=0.1)
    for _ in range(2):  # preserved, the branches' scales are 0 at first, and learn first
        optimizer.zero_grad()
        torch.autograd.backward(acnet(x).square().mean())
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in acnet.parameters() if p.ndim == 4)
    with torch.no_grad(), explicit_branches(acnet.eval()):
        expected = acnet(x)
    torch.testing.assert_close(fuse_model(acnet)(x), expected, rtol=1e-12, atol=1e-12)
    stock.load_state_dict(stock_state_dict(acnet))
    torch.testing.assert_close(stock.eval()(x), expected, rtol=1e-12, atol=1e-12)
