"""How new kernels are drawn: PyTorch's own draw, the fan-out draw, and pairs of networks made from one seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from acnet_pl.backbones import CifarQuick, ResNetCifar
from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, FusibleConv, PlainConv


def kernels_of(network: nn.Module) -> list[torch.Tensor]:
    """The main kernel of every convolution, and the weights and biases of the fully connected layers."""
    found = []
    for module in network.modules():
        if isinstance(module, FusibleConv):
            found.append(next(module.kernels()))
        elif isinstance(module, nn.Linear):
            found += [module.weight, module.bias]
    return found


def test_the_default_is_the_very_draw_of_pytorchs_layers() -> None:
    torch.manual_seed(3)
    expected = nn.Conv2d(8, 16, 3, groups=2, bias=False).weight
    for builder in (PlainConv(), ACBConv()):
        torch.manual_seed(3)
        assert torch.equal(next(builder(8, 16, 3, groups=2).kernels()), expected)  # type: ignore[operator]
    torch.manual_seed(3)
    linear = nn.Linear(576, 64)
    torch.manual_seed(3)
    hidden = CifarQuick(PlainConv(), 10).hidden
    assert hidden.weight.std().item() == pytest.approx(linear.weight.std().item(), rel=0.02)
    assert hidden.bias.any()


@pytest.mark.parametrize("draw", ["pytorch", "fan_out"])
@pytest.mark.parametrize("acb", [True, False])
def test_every_kernel_has_the_variance_of_its_draw(draw: str, acb: bool) -> None:
    torch.manual_seed(0)
    builder = ACBConv(asymmetric_size=3, draw=draw) if acb else PlainConv(draw)  # type: ignore[arg-type]
    layer = builder(256, 128, 5)
    for kernel in layer.kernels():
        taps = kernel[0, 0].numel()
        variance = 1 / (3 * 256 * taps) if draw == "pytorch" else 2 / (128 * taps)
        assert kernel.std().item() == pytest.approx(variance**0.5, rel=0.02)


@pytest.mark.parametrize("draw", ["pytorch", "fan_out"])
def test_a_plain_network_and_its_acnet_of_one_seed_have_the_same_main_kernels(draw: str) -> None:
    made: dict[str, nn.Module] = {}
    builders: dict[str, ConvBuilder] = {
        "plain": PlainConv(draw),  # type: ignore[arg-type]
        "paired": ACBConv(draw=draw),  # type: ignore[arg-type]
        "ablation": ACBConv(draw=draw, vertical=False, branch_norm=False),  # type: ignore[arg-type]
        "apart": ACBConv(draw=draw, paired=False),  # type: ignore[arg-type]
    }
    for name, builder in builders.items():
        torch.manual_seed(5)
        made[name] = ResNetCifar(builder, 10, depth=8)
    plain = kernels_of(made["plain"])
    for name in ("paired", "ablation"):
        assert all(map(torch.equal, plain, kernels_of(made[name])))
    apart = kernels_of(made["apart"])
    assert torch.equal(plain[0], apart[0])
    assert not any(map(torch.equal, plain[1:-2], apart[1:-2]))


def test_the_other_branches_of_a_pair_are_independent_draws() -> None:
    torch.manual_seed(0)
    network = ResNetCifar(ACBConv(), 10, depth=20)
    drawn = [k.flatten()[:16] for m in network.modules() if isinstance(m, ACBlock) for k in m.kernels()]
    alike = torch.corrcoef(torch.stack([values - values.mean() for values in drawn])).fill_diagonal_(0)
    assert len(drawn) == 57
    assert alike.abs().max() < 0.95
    assert alike.mean().abs() < 0.02


@pytest.mark.parametrize(("branches", "gamma"), [(3, 1 / 3), (3, 3**-0.5), (3, 1.0), (2, 6**-0.5), (1, 1.0)])
def test_output_scale_of_a_new_block_is_gamma_times_the_root_of_its_branches(branches: int, gamma: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 64, 16, 16)
    block = ACBlock(64, 64, 3, padding=1, horizontal=branches > 1, vertical=branches > 2, gamma_init=gamma)
    plain = PlainConv()(64, 64, 3, padding=1)
    ratio = (block(x).std() / plain(x).std()).item()
    assert ratio == pytest.approx(branches**0.5 * gamma, rel=0.03)


def test_unknown_draws_are_refused() -> None:
    for make in (
        lambda: PlainConv("kaiming"),  # type: ignore[arg-type]
        lambda: ACBConv(draw="kaiming"),  # type: ignore[arg-type]
        lambda: ACBlock(3, 3, 3, draw="kaiming"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"`draw` \(='kaiming'\) must be one of"):
            make()
