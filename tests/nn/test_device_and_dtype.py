"""Blocks are built where and as their device and dtype arguments say, as nn.Conv2d is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.nn.builders import BUILDERS, TwiceConv
from torch import Tensor, nn

from acnet_pl.nn import BlockConv, ConvBuilder, ConvNorm, FusibleConv, PlainConv, convert_to_acnet, fuse_report

WITH_ARGUMENTS: list[ConvBuilder] = [PlainConv(), *(made for made in BUILDERS if not isinstance(made, TwiceConv))]


@pytest.fixture(params=WITH_ARGUMENTS, ids=repr)
def builder(request: pytest.FixtureRequest) -> ConvBuilder:
    made: ConvBuilder = request.param
    return made


def build(builder: ConvBuilder, seed: int = 0, **where: Any) -> FusibleConv:
    torch.manual_seed(seed)
    kind = builder.kind if isinstance(builder, BlockConv) else ConvNorm
    return kind(4, 4, 3, padding=1, **vars(builder), **where)


def tensors(block: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that checkpoints lack included."""
    return dict(block.named_parameters()) | dict(block.named_buffers())


def same(block: nn.Module, other: nn.Module) -> bool:
    mine, others = tensors(block), tensors(other)
    return mine.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in mine.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dtype_is_that_of_the_tensors_the_output_and_what_it_fuses_to(
    builder: ConvBuilder, dtype: torch.dtype
) -> None:
    block = build(builder, dtype=dtype)
    counts = {tensor.dtype for name, tensor in tensors(block).items() if name.endswith("num_batches_tracked")}
    assert {tensor.dtype for tensor in tensors(block).values()} - counts == {dtype}
    x = torch.randn(2, 4, 7, 7, dtype=dtype)
    fused = block.eval().fuse()
    assert block(x).dtype == fused.weight.dtype == dtype
    plain = build(PlainConv(), dtype=dtype)
    assert torch.equal(next(block.kernels()), next(plain.kernels())), "drawn as a plain layer of this dtype is"
    torch.set_default_dtype(dtype)
    try:
        assert same(build(builder), build(builder, dtype=dtype))
    finally:
        torch.set_default_dtype(torch.float32)


def test_on_the_meta_device_nothing_is_drawn_and_later_the_same_is(builder: ConvBuilder) -> None:
    expected = build(builder)
    numbers = torch.get_rng_state()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.device("meta"):
        within = build(builder, seed=1)
    blocks = [within, build(builder, seed=1, device="meta")]
    assert torch.equal(torch.get_rng_state(), before)
    for block in blocks:
        assert all(tensor.is_meta for tensor in tensors(block).values())
        assert block(torch.empty(2, 4, 7, 7, device="meta")).shape == (2, 4, 7, 7)
        fused = copy.deepcopy(block).eval().fuse()
        assert fused.weight.is_meta
        assert fused.weight.shape == (4, 4, 3, 3)
        block.to_empty(device="cpu")
        torch.manual_seed(0)
        block.reset_parameters()  # type: ignore[operator]
        assert same(block, expected)
        assert torch.equal(torch.get_rng_state(), numbers)
    with torch.device("meta"):
        assert same(build(builder, device="cpu"), expected)


def test_a_block_without_values_takes_those_of_a_checkpoint(builder: ConvBuilder) -> None:
    trained = build(builder, dtype=torch.float64)
    assigned, filled = build(builder, device="meta"), build(builder, device="meta", dtype=torch.float64)
    assigned.load_state_dict(trained.state_dict(), assign=True)
    filled.to_empty(device="cpu")
    for tensor in tensors(filled).values():
        tensor.detach().fill_(7)  # as memory with anything in it
    filled.load_state_dict(trained.state_dict())
    assert same(assigned, trained)
    assert same(filled, trained)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32])
def test_other_dtypes_are_refused(builder: ConvBuilder, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"`dtype` \(=torch.\w+\) must be a real floating-point dtype"):
        build(builder, dtype=dtype)


def test_conversion_does_not_depend_on_the_default_device() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.device("meta"):
        acnet = convert_to_acnet(model, init="preserve")
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(acnet(x), model(x))


def test_a_batch_norm_on_another_device_than_its_convolution_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, device="meta")).eval()
    report = fuse_report(model)
    assert "it is on the device meta, `0` on cpu" in str(report)
