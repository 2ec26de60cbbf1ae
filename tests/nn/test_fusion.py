from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acnet_pl.nn.fusion import FusionError, all_finite, embed_kernel, fuse_batch_norm, sum_branches


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fused_kernel_computes_convolution_then_batch_norm(affine: bool, with_bias: bool, groups: int) -> None:
    torch.manual_seed(0)
    kernel, bias = _normal(8, 4 // groups, 3, 5), _normal(8) if with_bias else None
    mean, var = _normal(8), torch.rand(8, dtype=torch.float64) + 0.1
    weight, shift = (_normal(8), _normal(8)) if affine else (None, None)
    x = _normal(2, 4, 9, 9)
    expected = F.batch_norm(F.conv2d(x, kernel, bias, groups=groups), mean, var, weight, shift, eps=1e-3)
    actual = F.conv2d(x, *fuse_batch_norm(kernel, bias, mean, var, weight, shift, eps=1e-3), groups=groups)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_fusing_by_hand() -> None:
    # γ/σ = 3/√(3 + 1) = 1.5; (b - μ)·1.5 + β = (5 - 1)·1.5 + 7 = 13
    one = torch.ones(1, dtype=torch.float64)
    kernel, bias = fuse_batch_norm(one.reshape(1, 1, 1, 1) * 2, 5 * one, one, 3 * one, 3 * one, 7 * one, eps=1.0)
    assert (kernel.item(), bias.item()) == (3.0, 13.0)


def test_a_dead_channel_is_amplified_by_one_over_root_eps() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    kernel, _ = fuse_batch_norm(torch.ones(1, 1, 1, 1, dtype=torch.float64), None, zero, zero, eps=1e-5)
    assert kernel.item() == pytest.approx(316.22776601683796, rel=1e-15)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(data=st.data())
def test_embedded_kernel_is_that_kernel_and_zeros(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    kernel = _normal(2, 3, h, w)
    expected = torch.zeros(2, 3, height, width, dtype=torch.float64)
    expected[:, :, top : top + h, left : left + w] = kernel
    assert torch.equal(embed_kernel(kernel, (height, width), (top, left)), expected)


@pytest.mark.parametrize("offset", [(-1, 0), (0, -1), (3, 0), (1, 1)])
def test_embedding_outside_the_kernel_is_an_error(offset: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"a 1×3 kernel at offset .* does not lie inside a 3×3 kernel"):
        embed_kernel(torch.ones(1, 1, 1, 3), (3, 3), offset)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sum_of_branches_is_convolution_by_the_sum(count: int) -> None:
    torch.manual_seed(0)
    branches = [(_normal(4, 3, 3, 3), _normal(4)) for _ in range(count)]
    x = _normal(2, 3, 6, 6)
    expected = torch.stack([F.conv2d(x, *branch) for branch in branches]).sum(0)
    torch.testing.assert_close(F.conv2d(x, *sum_branches(branches)), expected, rtol=1e-12, atol=1e-12)


def test_functions_are_differentiable() -> None:
    torch.manual_seed(0)

    def fuse(kernel: Tensor, mean: Tensor, var: Tensor, weight: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        kernel, bias = fuse_batch_norm(kernel, None, mean, var, weight, shift)
        return sum_branches([(embed_kernel(kernel, (3, 3), (1, 0)), bias), (_square, bias)])

    _square = _normal(2, 2, 3, 3)
    inputs = [_normal(2, 2, 1, 3), _normal(2), torch.rand(2, dtype=torch.float64) + 0.5, _normal(2), _normal(2)]
    assert torch.autograd.gradcheck(fuse, [tensor.requires_grad_() for tensor in inputs])


def test_arguments_are_left_alone() -> None:
    kernel, mean, var = torch.ones(2, 2, 1, 3), torch.ones(2), torch.ones(2)
    fused, bias = fuse_batch_norm(kernel, torch.ones(2), mean, var)
    branches = [(embed_kernel(fused, (3, 3), (1, 0)), bias)] * 2
    sum_branches(branches)
    for tensor in (kernel, mean, var):
        assert torch.equal(tensor, torch.ones_like(tensor))


def test_fusion_error_is_a_value_error() -> None:
    assert issubclass(FusionError, ValueError)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64]
)
def test_one_value_that_is_not_finite_is_seen_in_any_place(dtype: torch.dtype) -> None:
    whole = torch.arange(-6, 6).reshape(2, 2, 3).to(dtype)
    assert all_finite(whole, whole.mT, whole[:0], torch.empty(3, dtype=dtype, device="meta"))
    for value in (float("nan"), float("inf"), -float("inf")) if dtype != torch.int64 else ():
        for place in range(12):
            spoilt = whole.clone()
            spoilt.view(-1)[place] = value
            assert not all_finite(whole, spoilt.mT.requires_grad_()), (value, place)
