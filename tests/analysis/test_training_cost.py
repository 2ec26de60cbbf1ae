"""training_cost: the multiplications of a training step and the bytes kept for its backward pass, counted by hand."""

from __future__ import annotations

import pytest
import torch

from acnet_pl.analysis import complexity, training_cost
from acnet_pl.analysis.meta_norms import QuickMetaNorms
from acnet_pl.backbones import CifarQuick
from acnet_pl.nn import ACBConv, ConvBuilder, DBBConv, MobileOneConv, OREPAConv, PlainConv, RepVGGConv

MAP = 8 * 6 * 6  # values of one map of 8 channels
SHAPE = (8, 6, 6)
FILTERS = {
    PlainConv(): 9,
    ACBConv(): 9 + 3 + 3,
    ACBConv(branch_norm="scale"): 9,
    RepVGGConv(): 9 + 1,
    MobileOneConv(copies=3): 3 * 9 + 1,
    DBBConv(): 9 + 1 + (1 + 9) + 1,  # average pooling is no multiplication by weights
    OREPAConv(): 9,
}


@pytest.mark.parametrize("builder", FILTERS, ids=repr)
def test_multiplications_are_those_of_the_branches_that_train(builder: ConvBuilder) -> None:
    cost = training_cost(builder(8, 8, 3, padding=1), SHAPE)
    assert cost.macs == FILTERS[builder] * 8 * MAP


def test_one_convolution_online_keeps_what_a_plain_layer_keeps() -> None:
    kept = {b: training_cost(b(8, 8, 3, padding=1), SHAPE).kept_bytes for b in FILTERS}
    plain, acb, scaled, repvgg, *_, orepa = kept.values()
    assert plain == 4 * 2 * MAP  # the input, for the kernel's gradient, and the convolution's output, for the norm's
    assert acb == 4 * (1 + 3) * MAP
    assert repvgg == 4 * (1 + 2) * MAP  # its identity's norm keeps the input, which is kept already
    assert scaled == orepa == plain


def test_the_model_stays_and_its_device_does_not_matter() -> None:
    model = CifarQuick(ACBConv(), 10).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = training_cost(model, (3, 32, 32))
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.device("meta"):
        assert training_cost(CifarQuick(ACBConv(), 10), (3, 32, 32)) == cost
    counted = complexity(model, (3, 32, 32))
    assert (cost.macs, cost.parameters) == (counted.macs, counted.parameters)


def test_a_share_of_the_batch_takes_that_share_of_the_branches() -> None:
    cost = training_cost(ACBConv(statistics_share=0.125)(8, 8, 3, padding=1), SHAPE)
    assert cost.macs == (9 + 15 / 8) * 8 * MAP


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norms_have_the_outputs_that_pytorch_gives_them(
    dtype: torch.dtype, training: bool, memory_format: torch.memory_format
) -> None:
    def outputs() -> list[tuple[torch.Size, tuple[int, ...], torch.dtype]]:
        x = torch.empty(2, 3, 4, 5, dtype=dtype, device="meta").to(memory_format=memory_format)
        made = torch.ops.aten._native_batch_norm_legit(x, *(x.new_empty(3) for _ in range(4)), training, 0.1, 1e-5)
        return [(one.shape, one.stride(), one.dtype) for one in made]

    expected = outputs()
    with QuickMetaNorms():
        assert outputs() == expected
