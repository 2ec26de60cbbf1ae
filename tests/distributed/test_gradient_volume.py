"""What docs/scaling.md says of gradients: which of a block's three are crops of one, how many bytes a network has."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from acnet_pl.nn import ACBlock, explicit_branches

ROOT = Path(__file__).parents[2]
BRANCHES = ("square", "horizontal", "vertical")


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "scaling_plan.py"), run_name="scaling_plan")


@pytest.fixture(scope="module")
def networks(plan: dict[str, Any]) -> Any:
    return plan["count_all"]()


def crop(kernel: Tensor, length: int) -> dict[str, Tensor]:
    """The parts of a k×k kernel on which the branches' kernels lie."""
    middle, start = kernel.shape[-1] // 2, (kernel.shape[-1] - length) // 2
    part = slice(start, start + length)
    return {
        "square": kernel,
        "horizontal": kernel[..., middle : middle + 1, part],
        "vertical": kernel[..., part, middle : middle + 1],
    }


def train(block: ACBlock, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Each branch's gradient, computed branch by branch."""
    with explicit_branches(block):
        ((block(x) - target) ** 2).mean().backward()
    return {name: getattr(block, name).weight.grad for name in BRANCHES}


@pytest.mark.parametrize(("k", "length", "stride"), [(3, 3, 1), (3, 3, 2), (5, 3, 1), (5, 5, 2)])
def test_with_one_norm_after_the_sum_the_gradients_are_crops_of_one(k: int, length: int, stride: int) -> None:
    block = ACBlock(4, 6, k, stride, padding=k // 2, branch_norm=False, asymmetric_size=length).double().train()
    assert block.norm is not None
    nn.init.uniform_(block.norm.weight, 0.5, 2.0)
    size = -(-12 // stride)
    x, target = torch.randn(5, 4, 12, 12).double(), torch.randn(5, 6, size, size).double()
    gradients = train(block, x, target)
    summed = next(block.kernels()).detach().clone()
    for name, part in crop(summed, length).items():
        if name != "square":
            part += getattr(block, name).weight.detach()
    summed.requires_grad_()
    plain = nn.functional.batch_norm(
        nn.functional.conv2d(x, summed, stride=stride, padding=k // 2), None, None, block.norm.weight, None, True
    )
    ((plain - target) ** 2).mean().backward()
    assert summed.grad is not None
    for name, expected in crop(summed.grad, length).items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-10, atol=1e-12)


def test_with_a_norm_in_each_branch_every_branch_has_its_own() -> None:
    block = ACBlock(4, 6, 3, padding=1).double().train()
    x, target = torch.randn(5, 4, 12, 12).double(), torch.randn(5, 6, 12, 12).double()
    for name in BRANCHES:
        nn.init.uniform_(getattr(block, f"{name}_norm").weight, 0.5, 2.0)
    gradients = train(block, x, target)
    with torch.no_grad(), explicit_branches(block):
        d = 2 * (block(x) - target) / target.numel()
        for name, padding in (("square", (1, 1)), ("horizontal", (0, 1)), ("vertical", (1, 0))):
            kernel, norm = getattr(block, name).weight, getattr(block, f"{name}_norm")
            z = nn.functional.conv2d(x, kernel, padding=padding)
            sigma = (z.var((0, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
            z = (z - z.mean((0, 2, 3), keepdim=True)) / sigma
            along = (d * z).mean((0, 2, 3), keepdim=True)
            dz = norm.weight.view(1, -1, 1, 1) / sigma * (d - d.mean((0, 2, 3), keepdim=True) - z * along)
            expected = conv2d_weight(x, list(kernel.shape), dz, padding=padding)
            torch.testing.assert_close(gradients[name], expected, rtol=1e-8, atol=1e-12)
    for name, part in crop(gradients["square"], 3).items():
        if name != "square":
            assert (gradients[name] - part).norm() > 0.1 * part.norm()


@pytest.mark.parametrize("depth", [18, 50])
def test_the_counts_are_those_of_torchvisions_network_and_the_articles_block(depth: int, networks: Any) -> None:
    with torch.device("meta"):
        stock = getattr(torchvision.models, f"resnet{depth}")()
    weights = sum(parameter.numel() for parameter in stock.parameters())
    shapes = [m.weight.shape for m in stock.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    plain, acnet, after = (networks[f"ResNet-{depth}", conv] for conv in ("plain", "ACNet", "BN after the sum"))
    assert plain.gradients == plain.as_one == 4 * weights
    added = sum(6 * outputs * inputs for outputs, inputs, *_ in shapes)
    assert added / sum(9 * outputs * inputs for outputs, inputs, *_ in shapes) == pytest.approx(15 / 9 - 1)
    assert acnet.gradients == 4 * (weights + added + 4 * sum(shape[0] for shape in shapes))
    assert (after.gradients, after.as_one) == (4 * (weights + added), 4 * weights)
    assert acnet.norms == plain.norms + 2 * len(shapes) == after.norms + 2 * len(shapes)
    assert after.macs == plain.macs


def test_saved_tensors_are_counted_as_they_are(plan: dict[str, Any]) -> None:
    """A convolution keeps its input, a batch norm its input, a ReLU its output."""
    side = plan["SIDE"]

    def build(conv: Any) -> nn.Module:
        return nn.Sequential(conv(3, 8, 3, padding=1), nn.ReLU())

    assert plan["count"](build, plan["CONVS"]["plain"]).saved == 4 * side**2 * (3 + 8 + 8)


def test_more_gpus_never_speed_a_gpu_up(plan: dict[str, Any], networks: Any) -> None:
    counts = networks["AlexNet", "ACNet"]
    on = plan["Assumptions"]()
    assert plan["all_reduce"](1e9, 2, 10) == pytest.approx(0.1)
    speeds = [counts.images_per_second(on, plan["all_reduce"](counts.gradients, n, on.nvlink_gb_s)) for n in (1, 2, 8)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] == pytest.approx(1 / counts.seconds(on))


def test_the_page_has_the_tables_of_today(plan: dict[str, Any], networks: Any) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    tables = plan["tables"](networks, plan["Assumptions"]())
    assert plan["updated"](page, tables) == page, "run `python benchmarks/scaling_plan.py --update docs/scaling.md`"
