import json
import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from acnet_pl.analysis import Location, accuracy, location_mask, prune_by_location, pruning_curve
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, fuse_model

Batches = list[tuple[Tensor, Tensor]]
MAXIMA: list[tuple[Location, float]] = [
    ("corner", 4 / 9),
    ("skeleton", 5 / 9),
    ("border", 5 / 9),
    ("top_left", 4 / 9),
    ("global", 1.0),
]


def _kernels(model: nn.Module) -> dict[str, Tensor]:
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def _removed(conv: nn.Conv2d, where: Location, ratio: float, seed: int) -> Tensor:
    return _kernels(prune_by_location(conv, where, ratio, seed))[""] == 0


@pytest.mark.parametrize("conv", [ACBConv(), PlainConv()], ids=repr)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.335, 0.36])
@pytest.mark.parametrize("where", [where for where, _ in MAXIMA])
def test_every_layer_reaches_the_ratio_at_the_location_alone(
    small_net: Callable[..., nn.Module], where: Location, ratio: float, conv: ConvBuilder
) -> None:
    net = small_net(conv)
    before = _kernels(fuse_model(net))
    pruned = prune_by_location(net, where, ratio, seed=3)
    for name, weight in _kernels(pruned).items():
        removed = weight == 0
        k = weight.shape[-1]
        if k == 1:
            assert not removed.any()
            continue
        assert removed.sum() == round(ratio * weight.numel()), name
        assert not removed[..., ~location_mask(where, k)].any()
        assert torch.equal(weight[~removed], before[name][~removed])


@pytest.mark.parametrize(("where", "maximum"), MAXIMA)
def test_the_maximum_is_possible_and_more_is_refused(where: Location, maximum: float) -> None:
    net = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Conv2d(5, 3, 3))
    for weight in _kernels(prune_by_location(net, where, maximum)).values():
        assert torch.equal(weight == 0, location_mask(where, 3).expand_as(weight))
    expected = {4 / 9: "4/9 = 44.4%", 5 / 9: "5/9 = 55.6%", 1.0: "9/9 = 100.0%"}[maximum]
    for ratio in (maximum + 1e-3, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"between 0 and {expected} for where='{where}': '0' has no more"):
            prune_by_location(net, where, ratio)


def test_in_a_mixed_net_the_layer_without_enough_weights_is_named(small_net: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"9/25 = 36.0% for where='skeleton': '0' has"):
        prune_by_location(small_net(), "skeleton", 0.4)
    prune_by_location(small_net(), "skeleton", 0.4, kernel_size=3)


def test_every_weight_at_the_location_has_the_same_chance() -> None:
    """Counts over positions, filters and channels against the binomial distribution's 5 sigma."""
    conv = nn.Conv2d(6, 10, 3)
    ratio, runs = 0.25, 400
    removed = torch.stack([_removed(conv, "corner", ratio, seed) for seed in range(runs)])
    counts = removed[..., location_mask("corner", 3)].double().sum(0)
    chance = ratio * 9 / 4
    deviation = (counts - runs * chance) / math.sqrt(runs * chance * (1 - chance))
    assert deviation.abs().max() < 5
    assert deviation.std() == pytest.approx(1, abs=0.25)
    layers = prune_by_location(nn.Sequential(conv, nn.Conv2d(6, 10, 3)), "corner", ratio)
    masks = [weight == 0 for weight in _kernels(layers).values()]
    assert not torch.equal(*masks)  # layers of one shape differ


def test_seeds_repeat_nest_and_leave_the_global_random_state() -> None:
    conv = nn.Conv2d(4, 4, 3)
    state = torch.get_rng_state()
    few, more, again, other = (
        _removed(conv, "global", ratio, seed) for ratio, seed in [(0.2, 1), (0.5, 1), (0.5, 1), (0.5, 2)]
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(more, again)
    assert not torch.equal(more, other)
    assert bool((more | ~few).all())


def test_the_model_stays_as_it_is(small_net: Callable[..., nn.Module]) -> None:
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = prune_by_location(net, "corner", 0.4)
    assert not pruned.training
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_curve_is_accuracy_of_pruned_copies(small_net: Callable[..., nn.Module], batches: Batches) -> None:
    net = small_net()
    ratios, seeds = (0.0, 0.2, 0.4), (5, 7, 8)
    curve = pruning_curve(net, iter(batches), "corner", ratios, seeds, progress=False)
    assert curve.accuracies == tuple(
        tuple(accuracy(prune_by_location(net, "corner", ratio, seed), batches) for seed in seeds) for ratio in ratios
    )
    assert curve.mean == tuple(statistics.mean(values) for values in curve.accuracies)
    assert curve.std == tuple(statistics.stdev(values) for values in curve.accuracies)
    assert curve.std[0] == 0
    assert json.loads(json.dumps(curve.as_dict()))["ratios"] == [0.0, 0.2, 0.4]
    lines = str(curve).splitlines()
    assert lines[0] == "accuracy after pruning: corner, n = 3"
    assert lines[1] == f"    0.0%  {curve.mean[0]:7.2%} ± 0.00"


def test_any_function_can_evaluate_and_nothing_runs_twice(small_net: Callable[..., nn.Module]) -> None:
    calls = []

    def sparsity(model: nn.Module) -> float:
        calls.append(model)
        weight = _kernels(model)["2"]
        return float((weight == 0).float().mean())

    curve = pruning_curve(small_net(), sparsity, "global", (0, 0.5), range(4), progress=False)
    assert curve.accuracies == ((0.0,) * 4, (0.5,) * 4)
    assert len(calls) == 5  # once without pruning
    assert pruning_curve(small_net(), sparsity, "global", [0.5], [0], progress=False).std == (0.0,)


def test_the_progress_bar_is_optional(small_net: Callable[..., nn.Module], capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        pruning_curve(small_net(), lambda model: 1.0, "corner", [0.1], [0], progress=progress)
        assert ("Pruning (corner)" in capsys.readouterr().out) == progress


def test_impossible_curves_are_refused_before_anything_runs(small_net: Callable[..., nn.Module]) -> None:
    def fail(model: nn.Module) -> float:
        pytest.fail("evaluated")

    with pytest.raises(ValueError, match=r"44\.4%"):
        pruning_curve(small_net(), fail, "corner", (0, 0.2, 0.5))
    for ratios, seeds in (((), (0,)), ((0.1,), ())):
        with pytest.raises(ValueError, match="at least one ratio and one seed"):
            pruning_curve(small_net(), fail, "corner", ratios, seeds)


def test_models_with_nothing_to_prune_are_refused() -> None:
    with pytest.raises(ValueError, match="no convolution with odd square kernels"):
        prune_by_location(nn.Conv2d(3, 4, 1), "corner", 0.1)
    with pytest.raises(ValueError, match="no convolution with 5×5 kernels"):
        prune_by_location(nn.Conv2d(3, 4, 3), "corner", 0.1, kernel_size=5)
    with pytest.raises(ValueError, match="computed from others"):
        prune_by_location(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), "corner", 0.1)
