"""The block equals its fused kernel (Eq. 8), in all geometries, against a naive sliding window and in its gradients."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import ACBlock, FusionError, explicit_branches
from acnet_pl.nn.scale import ChannelScale

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def randomise(module: nn.Module, seed: int = 0, dead_channel: bool = True) -> None:
    """Give every batch norm random statistics and affine values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.1, 3.0, generator=generator)
            if dead_channel:
                norm.running_var[0] = 1e-9
            if norm.affine:
                with torch.no_grad():
                    norm.weight.normal_(generator=generator)
                    norm.bias.normal_(generator=generator)
        elif isinstance(norm, ChannelScale):
            nn.init.normal_(norm.weight, generator=generator)


def relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).detach().abs().max() / expected.abs().max())


def fuse_in_place(block: ACBlock) -> None:
    with pytest.warns(DeprecationWarning, match="will be removed in the next version; use fuse"):
        block.switch_to_deploy()  # type: ignore[deprecated]


@dataclass(frozen=True)
class Case:
    channels: tuple[int, int]
    geometry: dict[str, Any]
    options: dict[str, Any]
    norm: str
    size: tuple[int, int]
    seed: int

    def block(self) -> ACBlock:
        torch.manual_seed(self.seed)
        block = ACBlock(self.channels[0], self.channels[1], **self.geometry, **self.options)
        if self.norm == "no affine":
            for name, module in list(block.named_children()):
                if isinstance(module, _BatchNorm):
                    setattr(block, name, nn.BatchNorm2d(self.channels[1], affine=False))
        if self.norm == "sync":
            block = nn.SyncBatchNorm.convert_sync_batchnorm(block)  # type: ignore[no-untyped-call]
            assert any(isinstance(module, nn.SyncBatchNorm) for module in block.modules())
        randomise(block, self.seed)
        return block.double().eval()

    def input(self) -> Tensor:
        return torch.randn(2, self.channels[0], *self.size, dtype=torch.float64)


def pairs(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def cases(draw: st.DrawFn, largest: int = 11) -> Case:
    k = draw(st.integers(1, largest // 2)) * 2 + 1
    dilation = draw(pairs(1, 3))
    stride = draw(pairs(1, 3))
    choices = [pairs(0, k), st.just("valid")] + ([st.just("same")] if stride == (1, 1) else [])
    padding: Any = draw(st.one_of(*choices))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    position = draw(st.sampled_from(["skeleton", "border"]))
    options = {
        "horizontal": draw(st.booleans()),
        "vertical": draw(st.booleans()),
        "branch_norm": draw(st.sampled_from([True, False, "scale"])),
        "position": position,
        "asymmetric_size": None if position == "border" else draw(st.sampled_from([None, *range(3, k + 1, 2)])),
    }
    channels, groups = draw(st.sampled_from([((3, 5), 1), ((4, 6), 2), ((4, 4), 4), ((4, 8), 4)]))
    # At least a 4×4 output, and an input larger than any padding, which "reflect" and "circular" need.
    height, width = (
        max(d * (k - 1) + 1 + 3 * s, d * (k - 1) // 2 + 1, k + 1) + draw(st.integers(0, 2))
        for d, s in zip(dilation, stride, strict=True)
    )
    geometry = {
        "kernel_size": k,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": mode,
    }
    norm = draw(st.sampled_from(["plain", "plain", "sync", "no affine"]))
    return Case(channels, geometry, options, norm, (height, width), draw(st.integers(0, 2**16)))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(case=cases())
def test_fused_equals_trained(case: Case) -> None:
    exact_block, exact_x = case.block(), case.input()
    for dtype in (torch.float64, torch.float32):
        block, x = copy.deepcopy(exact_block).to(dtype), exact_x.to(dtype)
        with torch.no_grad():
            trained = block.forward_branches(x)
            square = F.conv2d(
                block._shape.pad(x),
                block.get_submodule("square").weight,  # type: ignore[arg-type]
                None,
                block.stride,
                block._shape.zero_padding,
                block.dilation,
                block.groups,
            )
            assert trained.shape == square.shape
            assert relative(block.fuse()(x), trained) <= TOLERANCE[dtype]
            assert relative(block(x), trained) <= TOLERANCE[dtype]
        assert relative(block(x), trained) <= TOLERANCE[dtype]  # with a graph, not from the cache


def _norm(out: np.ndarray, norm: Any) -> np.ndarray:
    mean, std = norm.running_mean.numpy(), np.sqrt(norm.running_var.numpy() + norm.eps)
    out = (out - mean[:, None, None]) / std[:, None, None]
    if norm.affine:
        out = out * norm.weight.detach().numpy()[:, None, None] + norm.bias.detach().numpy()[:, None, None]
    return out


def sliding_window(block: Any, x: np.ndarray) -> np.ndarray:
    """The article's Fig. 2 in words: every kernel sees its part of one k×k window that slides over the padded input."""
    k, length, groups = block.kernel_size[0], block.asymmetric_size, block.groups
    if block.padding in ("valid", "same"):
        pad = [(k - 1) * d // 2 if block.padding == "same" else 0 for d in block.dilation]
    else:
        pad = list(block.padding)
    mode: Any = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[block.padding_mode]
    padded = np.pad(x, [(0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])], mode=mode)
    line = k - 1 if block.position == "border" else k // 2
    run = slice((k - length) // 2, (k + length) // 2)
    parts = {
        "square": (slice(None), slice(None)),
        "horizontal": (slice(line, line + 1), run),
        "vertical": (run, slice(line, line + 1)),
    }
    (sh, sw), (dh, dw) = block.stride, block.dilation
    height = (padded.shape[2] - dh * (k - 1) - 1) // sh + 1
    width = (padded.shape[3] - dw * (k - 1) - 1) // sw + 1
    total = np.zeros((len(x), block.out_channels, height, width))
    for name, (rows, columns) in parts.items():
        conv, norm, scale = (getattr(block, f"{name}{part}") for part in ("", "_norm", "_scale"))
        if conv is None:
            continue
        weight = conv.weight.detach().numpy().reshape(groups, block.out_channels // groups, -1)
        out = np.zeros_like(total)
        for i in range(height):
            for j in range(width):
                window = padded[:, :, i * sh : i * sh + dh * (k - 1) + 1 : dh, j * sw : j * sw + dw * (k - 1) + 1 : dw]
                seen = window[:, :, rows, columns].reshape(len(x), groups, -1)
                out[:, :, i, j] = np.einsum("gow,ngw->ngo", weight, seen).reshape(len(x), -1)
        if scale is not None:
            out = out * scale.weight.detach().numpy()[:, None, None]
        total += out if norm is None else _norm(out, norm)
    return total if block.norm is None else _norm(total, block.norm)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(case=cases(largest=7))
def test_branches_are_the_articles_sliding_window(case: Case) -> None:
    block, x = case.block(), case.input()
    expected = torch.from_numpy(sliding_window(block, x.numpy()))
    with torch.no_grad():
        assert relative(block.forward_branches(x), expected) <= 1e-12
        assert relative(block.fuse()(x), expected) <= 1e-12


@settings(deadline=None, derandomize=True, max_examples=200)
@given(case=cases(largest=7))
def test_training_forward_of_summed_kernels_equals_explicit_branches(case: Case) -> None:
    if case.options["branch_norm"] is True:
        case.options["branch_norm"] = False
    summed, x = case.block().train(), case.input().requires_grad_()
    explicit = copy.deepcopy(summed)
    results = []
    for block, context in ((summed, False), (explicit, True)):
        block.explicit = context
        out = block(x)
        grads = torch.autograd.grad(
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), [x, *block.parameters()]
        )
        results.append([out, *grads, *(buffer.double() for buffer in block.buffers())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("branch_norm", [True, False, "scale"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("geometry", [{"padding": 1}, {"stride": 2, "dilation": 2, "groups": 2, "position": "border"}])
def test_gradcheck(branch_norm: Any, training: bool, geometry: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = ACBlock(2, 2, 3, branch_norm=branch_norm, **geometry).double().train(training)
    randomise(block, dead_channel=False)
    names = [name for name, _ in block.named_parameters()]
    inputs = [torch.randn(2, 2, 7, 7, dtype=torch.float64), *(p.detach().clone() for p in block.parameters())]

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        out: Tensor = functional_call(block, dict(zip(names, parameters, strict=True)), (x,))
        return out

    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(forward, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, inputs, fast_mode=True)


@pytest.mark.parametrize("branch_norm", [True, False, "scale"])
def test_gradcheck_of_the_equivalent_kernel(branch_norm: Any) -> None:
    torch.manual_seed(0)
    block = ACBlock(2, 3, 3, branch_norm=branch_norm).double()
    randomise(block, dead_channel=False)
    names = [name for name, _ in block.named_parameters()]

    class Equivalent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self) -> tuple[Tensor, Tensor]:
            return self.block.get_equivalent_kernel_bias()

    def equivalent(*parameters: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"block.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        out: tuple[Tensor, Tensor] = functional_call(Equivalent(), named, ())
        return out

    assert torch.autograd.gradcheck(equivalent, [p.detach().clone().requires_grad_() for p in block.parameters()])


@pytest.mark.parametrize("branch_norm", [True, False, "scale"])
def test_fine_tuning_with_frozen_batch_norm_has_the_branches_gradients(branch_norm: Any) -> None:
    torch.manual_seed(0)
    block = ACBlock(3, 4, 3, padding=1, branch_norm=branch_norm).double().eval()
    randomise(block)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        block(x)  # fills the cache, which the next forward must not use
    grads = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    expected = torch.autograd.grad(block.forward_branches(x).square().sum(), list(block.parameters()))
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))


def _block(**options: Any) -> ACBlock:
    torch.manual_seed(0)
    block = ACBlock(4, 6, 3, padding=1, groups=2, **options)
    randomise(block, dead_channel=False)
    return block.eval()


def test_fuse_is_pure() -> None:
    for block in (_block(), _block().double()):
        before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
        rng = torch.get_rng_state()
        conv = block.fuse()
        with torch.no_grad():
            conv.weight.zero_()
            assert conv.bias is not None
            conv.bias.zero_()
        assert torch.equal(rng, torch.get_rng_state())
        for name, tensor in block.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_fused_convolution_is_a_copy_also_of_a_deployed_block() -> None:
    block = _block().double()  # in float64 no cast makes a copy
    fuse_in_place(block)
    assert block.fused is not None
    assert block.fuse().weight.data_ptr() != block.fused.weight.data_ptr()


@pytest.mark.parametrize("options", [{}, {"branch_norm": False}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fuse_keeps_what_a_convolution_has(options: dict[str, Any], dtype: torch.dtype) -> None:
    block = ACBlock(4, 8, 5, (2, 1), (1, 2), (1, 2), 4, "reflect", **options).to(dtype).eval()
    conv = block.fuse()
    assert type(conv) is nn.Conv2d
    kept = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    for name in kept:
        assert getattr(conv, name) == getattr(block, name)
    assert conv.bias is not None
    assert conv.weight.shape == (8, 1, 5, 5)
    for parameter in (conv.weight, conv.bias):
        assert (parameter.dtype, parameter.device.type, parameter.requires_grad) == (dtype, "cpu", True)
        assert parameter.is_leaf
    assert not conv.training


def test_fuse_keeps_requires_grad_training_flag_and_memory_format() -> None:
    assert not any(p.requires_grad for p in _block().requires_grad_(False).fuse().parameters())
    frozen = _block().train()
    for norm in frozen.norms():
        norm.eval()
    assert frozen.fuse().training
    assert not _block().fuse().training
    channels_last = _block().to(memory_format=torch.channels_last)
    assert channels_last.fuse().weight.is_contiguous(memory_format=torch.channels_last)
    assert not _block().fuse().weight.is_contiguous(memory_format=torch.channels_last)


def test_fused_convolution_trains() -> None:
    conv = _block().fuse()
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


def test_equivalent_kernel_is_differentiable_and_lies_where_figure_6_has_it() -> None:
    for position, row, column in (("skeleton", 1, 1), ("border", 2, 2)):
        block = ACBlock(1, 1, 3, branch_norm=False, position=position)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter, value in zip(block.kernels(), (1.0, 10.0, 100.0), strict=True):
                parameter.fill_(value)
            assert block.norm is not None
            block.norm.eps = 0.0
        kernel, bias = block.get_equivalent_kernel_bias()
        expected = torch.ones(3, 3)
        expected[row] += 10
        expected[:, column] += 100
        assert torch.equal(kernel[0, 0].detach(), expected)
        assert bias.item() == 0
        torch.autograd.backward(kernel.sum())
        assert all(parameter.grad is not None for parameter in block.kernels())


@pytest.mark.parametrize("branch_norm", [True, False])
def test_switch_to_deploy(branch_norm: bool) -> None:
    block, x = _block(branch_norm=branch_norm), torch.randn(2, 4, 6, 6)
    expected = block.fuse()(x)
    fuse_in_place(block)
    once = block.state_dict()
    assert set(once) == {"fused.weight", "fused.bias"}
    fuse_in_place(block)
    for out in (block(x), block.forward_branches(x), block.train()(x), block.fuse()(x)):
        assert torch.equal(out, expected)
    with explicit_branches(block):
        assert torch.equal(block(x), expected)
    copied = pickle.loads(pickle.dumps(block))
    assert torch.equal(copied(x), expected)
    with pytest.raises(FusionError, match="train mode"):
        fuse_in_place(ACBlock(3, 4, 3))


@pytest.mark.parametrize("options", [{}, {"branch_norm": False}, {"horizontal": False}, {"asymmetric_size": 3}])
def test_round_trips(options: dict[str, Any]) -> None:
    block, x = ACBlock(4, 6, 5, padding=2, **options), torch.randn(2, 4, 6, 6)
    randomise(block)
    block.eval()
    buffer = io.BytesIO()
    torch.save(block.state_dict(), buffer)
    buffer.seek(0)
    loaded = ACBlock(4, 6, 5, padding=2, **options).eval()
    with torch.no_grad():
        loaded(x)  # fills a cache that loading makes stale
        loaded.load_state_dict(torch.load(buffer, weights_only=True))
        for other in (loaded, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert torch.equal(other(x), block(x))
            assert torch.equal(other.forward_branches(x), block.forward_branches(x))
            assert set(other.state_dict()) == set(block.state_dict())
            assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in block.parameters()}


def test_gamma_init_and_reset() -> None:
    block = ACBlock(4, 4, 3, gamma_init=1 / 3)
    norms = list(block.norms())
    assert len(norms) == 3
    randomise(block)
    old = [kernel.detach().clone() for kernel in block.kernels()]
    block.reset_parameters()
    for norm in norms:
        assert norm.running_mean is not None
        torch.testing.assert_close(norm.weight, torch.full((4,), 1 / 3))
        assert not norm.bias.any()
        assert not norm.running_mean.any()
    assert not any(torch.equal(a, b) for a, b in zip(old, block.kernels(), strict=True))
    after_sum = next(ACBlock(4, 4, 3, branch_norm=False, gamma_init=1 / 3).norms())
    assert torch.equal(after_sum.weight, torch.ones(4))


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("branch_norm", [True, False])
def test_ablations_have_their_branches_and_norms(horizontal: bool, vertical: bool, branch_norm: bool) -> None:
    block = ACBlock(2, 2, 5, horizontal=horizontal, vertical=vertical, branch_norm=branch_norm, asymmetric_size=3)
    shapes = [(5, 5), *([(1, 3)] if horizontal else []), *([(3, 1)] if vertical else [])]
    assert [tuple(kernel.shape[-2:]) for kernel in block.kernels()] == shapes
    assert len(list(block.norms())) == (len(shapes) if branch_norm else 1)


def test_block_without_branches_and_branch_norm_is_a_convolution_and_its_batch_norm() -> None:
    block = ACBlock(3, 4, 3, padding=1, horizontal=False, vertical=False, branch_norm=False)
    assert block.square is not None
    assert block.norm is not None
    plain = nn.Sequential(copy.deepcopy(block.square), copy.deepcopy(block.norm))
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(block(x), plain(x))


def test_explicit_branches_restores_also_after_an_error() -> None:
    model = nn.Sequential(ACBlock(2, 2, 3), ACBlock(2, 2, 3))

    def fail_within() -> None:
        with explicit_branches(model):
            assert all(block.explicit for block in model.children())
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert not any(block.explicit for block in model.children())


def test_repr_shows_what_differs_from_the_default() -> None:
    text = ACBlock(4, 4, 5, padding=2, asymmetric_size=3).extra_repr()
    assert text == "4, 4, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), asymmetric_size=3"
    assert "position='border'" in repr(ACBlock(4, 4, 3, position="border"))


BAD_ARGUMENTS = [
    ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be odd and at least 3: .*keep a plain nn.Conv2d"),
    ({"kernel_size": 1}, r"`kernel_size` \(=1\) must be odd and at least 3: .*keep a plain nn.Conv2d"),
    ({"kernel_size": -3}, r"`kernel_size` \(=-3\)"),
    ({"kernel_size": (3, 5)}, r"`kernel_size` \(=3×5\) must be square: .*keep a plain nn.Conv2d"),
    ({"kernel_size": (3, 3, 3)}, r"`kernel_size` \(=\(3, 3, 3\)\) must be an int or a pair of ints"),
    ({"kernel_size": 3.0}, r"`kernel_size` \(=3.0\) must be an int or a pair of ints"),
    ({"kernel_size": None}, r"`kernel_size` \(=None\) must be an int or a pair of ints"),
    ({"stride": "2"}, r"`stride` \(='2'\) must be an int or a pair of ints"),
    ({"stride": 0}, r"`stride` \(=0\) must be at least 1"),
    ({"dilation": (1, 0)}, r"`dilation` \(=0\) must be at least 1"),
    ({"padding": -1}, r"`padding` \(=-1\) must be at least 0"),
    ({"padding": "full"}, r"`padding` \(='full'\) must be an int, a pair of ints, 'same' or 'valid'"),
    ({"padding": "same", "stride": 2}, r"padding='same' needs stride 1, got `stride` \(=\(2, 2\)\); give the padding"),
    ({"padding_mode": "mirror"}, r"`padding_mode` \(='mirror'\) must be one of 'zeros', 'reflect', 'replicate', 'circ"),
    ({"branch_norm": "scaled"}, r"`branch_norm` \(='scaled'\) must be True, False or 'scale'"),
    ({"position": "edge"}, r"`position` \(='edge'\) must be one of 'skeleton', 'border'"),
    ({"groups": 4}, r"`in_channels` \(=6\) must be divisible by `groups` \(=4\)"),
    ({"groups": 3}, r"`out_channels` \(=8\) must be divisible by `groups` \(=3\)"),
    ({"groups": 0}, r"`groups` \(=0\) must be at least 1"),
    ({"in_channels": 0}, r"`in_channels` \(=0\) must be at least 1"),
    ({"out_channels": 0}, r"`out_channels` \(=0\) must be at least 1"),
    ({"asymmetric_size": 2}, r"`asymmetric_size` \(=2\) must be odd, at least 3 and at most .*\(=3\); leave it out"),
    ({"asymmetric_size": 1}, r"`asymmetric_size` \(=1\) must be odd, at least 3"),
    ({"asymmetric_size": 5}, r"`asymmetric_size` \(=5\) must be .* at most `kernel_size` \(=3\); leave it out"),
    (
        {"kernel_size": 5, "asymmetric_size": 3, "position": "border"},
        r"position='border' needs .*`asymmetric_size` \(=3\) must equal `kernel_size` \(=5\); leave it out",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ACBlock(**{"in_channels": 6, "out_channels": 8, "kernel_size": 3, **arguments})


def test_a_block_in_train_mode_is_not_fused() -> None:
    block = _block()
    assert block.square_norm is not None
    block.square_norm.train()  # one batch norm suffices
    for bad in (block, _block().train(), _block(branch_norm=False).train()):
        with pytest.raises(FusionError, match=r"train mode.*call model.eval\(\) first"):
            bad.fuse()


@pytest.mark.parametrize("branch_norm", [True, False])
def test_no_running_statistics(branch_norm: bool) -> None:
    block = _block(branch_norm=branch_norm)
    name = "square_norm" if branch_norm else "norm"
    setattr(block, name, nn.BatchNorm2d(6, track_running_stats=False).eval())
    for fuse in (block.fuse, block.get_equivalent_kernel_bias):
        with pytest.raises(FusionError, match=r"track_running_stats=False.*train with track_running_stats=True"):
            fuse()
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(block(x), block.forward_branches(x))


class _NormAndActivation(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.Identity(), _NormAndActivation(6)])
@pytest.mark.parametrize("branch_norm", [True, False])
def test_another_norm_is_evaluated_but_not_fused(norm: nn.Module, branch_norm: bool) -> None:
    block, x = _block(branch_norm=branch_norm), torch.randn(3, 4, 5, 5)
    setattr(block, "vertical_norm" if branch_norm else "norm", norm.eval())
    torch.testing.assert_close(block(x), block.forward_branches(x))
    with pytest.raises(FusionError, match=rf"its norm is a {type(norm).__name__}; only nn.BatchNorm2d.*leave this"):
        block.fuse()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["square.weight", "vertical_norm.weight", "horizontal_norm.running_mean", "square_norm.running_var"]
)
def test_values_that_are_not_finite(name: str, value: float) -> None:
    block = _block()
    tensor = block.state_dict()[name]
    tensor.view(-1)[1] = value
    with pytest.raises(FusionError, match=rf"`{name}` holds 1 NaN or infinite value of {tensor.numel()}; .*checkpoint"):
        block.fuse()
    tensor.view(-1)[2] = value
    with pytest.raises(FusionError, match=r"holds 2 NaN or infinite values of"):
        block.fuse()


def test_fused_values_that_are_not_finite() -> None:
    overflowing = _block().half()
    overflowing.state_dict()["square_norm.weight"].fill_(6e4)
    with pytest.raises(FusionError, match=r"not finite in torch.float16: they overflow.*fuse model.float\(\)"):
        overflowing.fuse()
    assert overflowing.float().fuse().weight.isfinite().all()
    negative = _block()
    negative.state_dict()["square_norm.running_var"].fill_(-1.0)
    with pytest.raises(FusionError, match=r"a variance \+ eps is not positive"):
        negative.fuse()
