import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acnet_pl.analysis import Equivalence, EquivalenceMetric, accuracy, compare, rotation_accuracy
from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, PlainConv, fuse_model

Batches = list[tuple[Tensor, Tensor]]
VARIANTS = [
    PlainConv(),
    ACBConv(),
    ACBConv(branch_norm=False),
    ACBConv(position="border"),
    ACBConv(asymmetric_size=3),
    ACBConv(vertical=False),
]


@pytest.mark.parametrize("conv", VARIANTS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fused_net_is_the_trained_one(
    small_net: Callable[..., nn.Module], batches: Batches, conv: ConvBuilder, dtype: torch.dtype
) -> None:
    net = small_net(conv).to(dtype)
    result = compare(net, fuse_model(net), batches)
    assert result.within(1e-5 if dtype == torch.float32 else 1e-12)
    assert result.max_abs_difference > 0  # an exact zero would say that something was compared with itself
    assert (result.samples, result.top1_agreement) == (14, 1.0)
    assert result.trained_accuracy == result.fused_accuracy


def test_numbers_are_numpys(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    trained, fused = small_net(), small_net()  # two networks that differ
    with torch.no_grad():
        a = np.concatenate([trained(images).double().numpy() for images, _ in batches])
        b = np.concatenate([fused(images).double().numpy() for images, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    result = compare(trained, fused, batches)
    assert result.max_abs_difference == pytest.approx(np.abs(a - b).max(), rel=1e-4)
    assert result.max_rel_difference == pytest.approx(np.abs(a - b).max() / np.abs(a).max(), rel=1e-4)
    assert result.top1_agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert result.trained_accuracy == pytest.approx((a.argmax(1) == labels).mean())
    assert result.fused_accuracy == pytest.approx((b.argmax(1) == labels).mean())
    assert not result.within(1e-3)


def test_the_branches_are_evaluated_and_not_the_fused_shortcut(
    small_net: Callable[..., nn.Module], batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = small_net().train()
    fused = fuse_model(net.eval())
    net.train()
    seen = []
    original = ACBlock.forward_branches

    def spy(self: ACBlock, x: Tensor) -> Tensor:
        seen.append(self.training)
        return original(self, x)

    monkeypatch.setattr(ACBlock, "forward_branches", spy)
    compare(net, fused, batches)
    assert seen == [False] * 9  # three blocks, three batches
    assert all(module.training for module in net.modules())


def test_autocast_does_not_decide(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    net = small_net()
    with torch.autocast("cpu", torch.bfloat16):
        assert compare(net, fuse_model(net), batches).within(1e-5)


def test_without_labels_there_is_no_accuracy(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    net = small_net()
    result = compare(net, fuse_model(net), [images for images, _ in batches])
    assert result.trained_accuracy is result.fused_accuracy is None
    assert list(result.as_dict()) == ["samples", "max_abs_difference", "max_rel_difference", "top1_agreement"]
    assert "accuracy" not in str(result)


def test_nan_is_never_within_a_tolerance(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    net = small_net()
    fused = fuse_model(net)
    with torch.no_grad():
        next(fused.parameters()).fill_(torch.nan)
    result = compare(net, fused, [*batches, *batches])
    assert np.isnan(result.max_abs_difference)
    assert not result.within(float("inf"))


@pytest.mark.parametrize(("fused", "expected"), [(0.0, 0.0), (1.0, float("inf"))])
def test_a_model_that_gives_zeros(fused: float, expected: float) -> None:
    metric = EquivalenceMetric()
    metric.update(torch.zeros(2, 3), torch.full((2, 3), fused))
    assert metric.result().max_rel_difference == expected


def test_two_processes_together_are_one_that_saw_everything() -> None:
    torch.manual_seed(1)
    data = [(torch.randn(n, 5), torch.randn(n, 5), torch.randint(5, (n,))) for n in (6, 3, 4)]
    alone, other = EquivalenceMetric(), EquivalenceMetric()
    remote: list[Tensor] = []
    mine = EquivalenceMetric(
        dist_sync_fn=lambda value, group=None: [value, remote.pop(0)], distributed_available_fn=lambda: True
    )
    for index, batch in enumerate(data):
        alone.update(*batch)
        (mine if index < 2 else other).update(*batch)
    remote[:] = [getattr(other, name) for name in other._reductions]
    assert mine.result() == alone.result()
    remote[:] = [getattr(other, name) for name in other._reductions]
    tensors = mine.compute()
    assert {name: float(value) for name, value in tensors.items()} == pytest.approx(alone.result().as_dict())
    assert mine.samples == 9  # its own again


def test_architectures_that_differ_are_refused(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    with pytest.raises(ValueError, match="same architecture"):
        compare(small_net(), small_net(classes=4), batches)


def test_no_images_are_refused(small_net: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="no images"):
        compare(small_net(), small_net(), [])


def test_it_prints_a_sentence() -> None:
    assert str(Equivalence(100, 1.5e-6, 2e-7, 1.0, 0.875, 0.875)) == (
        "trained vs fused on 100 images: max difference 1.5e-06 (relative 2e-07), top-1 agreement 100.00%, "
        "accuracy 87.50% trained, 87.50% fused"
    )


def test_nan_agrees_with_nothing_and_is_never_right() -> None:
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [torch.nan, torch.nan]])
    metric = EquivalenceMetric()
    metric.update(logits, logits, torch.tensor([1, 0, 0]))
    result = metric.result()
    assert result.top1_agreement == result.trained_accuracy == result.fused_accuracy == pytest.approx(1 / 3)
    assert math.isnan(result.max_rel_difference)
    assert not result.within(1e9)


def test_empty_batches_are_passed_over(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    net = small_net()
    empty = (batches[0][0][:0], batches[0][1][:0])
    assert compare(net, fuse_model(net), [empty, *batches, empty]) == compare(net, fuse_model(net), batches)
    assert accuracy(net, [empty, *batches]) == accuracy(net, batches)
    assert rotation_accuracy(net, [*batches, empty]) == rotation_accuracy(net, batches)
    with pytest.raises(ValueError, match="there are no images"):
        compare(net, fuse_model(net), [empty])


@dataclass
class Detected:
    boxes: list[Tensor]
    classes: Tensor


def test_any_outputs_are_compared_each_by_its_own_range() -> None:
    large, small = torch.tensor([[0.0, 800.0]]), torch.tensor([0.5, 0.25])
    trained = {"found": Detected([large, torch.zeros(0, 4)], torch.tensor([3, 1])), "scores": (small,)}
    metric = EquivalenceMetric()
    metric.update(trained, trained, samples=1)
    assert metric.result() == Equivalence(1, 0.0, 0.0)
    wrong = {"found": Detected([large, torch.zeros(0, 4)], torch.tensor([3, 1])), "scores": (small + 0.05,)}
    metric.update(trained, wrong, samples=1)  # a sixteen-thousandth of the largest number, a tenth of its own
    assert metric.result().max_rel_difference == pytest.approx(0.1)
    with pytest.raises(ValueError, match="must be tensors of the same shapes"):
        metric.update(trained, {"scores": (small,)})
    other = {"found": Detected([large, torch.zeros(0, 4)], torch.tensor([3, 2])), "scores": (small,)}
    metric.update(trained, other, samples=1)
    assert metric.result().max_rel_difference == pytest.approx(1 / 3)
