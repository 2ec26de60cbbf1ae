"""A training without Lightning is the training that Lightning does, and a graph's replay is its step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from acnet_pl.data import DigitsDataModule
from acnet_pl.graphs import DeviceImages, Momentum, NetworkTraining, evaluate, time_steps, train_epoch
from acnet_pl.modules import CosineSchedule
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv

from .conftest import EPOCHS, Make, classifier


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(float(outputs["loss"]))


def train(trainings: Sequence[NetworkTraining]) -> list[list[float]]:
    losses: list[list[float]] = [[] for _ in trainings]
    while not trainings[0].done:
        train_epoch(trainings)
        for mine, training in zip(losses, trainings, strict=True):
            mine += training.end_epoch()[0]
    return losses


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("conv", [PlainConv(), ACBConv(gamma_init=1 / 3)], ids=["plain", "acnet"])
def test_the_losses_are_those_of_fit(conv: ConvBuilder, make: Make, digits: DigitsDataModule) -> None:
    model, losses = classifier(conv), Losses()
    model.schedule = CosineSchedule(warmup_epochs=0.5)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[losses],
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **quiet,
    )
    trainer.fit(model, datamodule=digits)
    training = make(conv)
    (own,) = train([training])
    assert len(own) == 2 * 11
    torch.testing.assert_close(torch.tensor(own), torch.tensor(losses.seen), rtol=1e-5, atol=1e-5)
    assert own[-1] < own[0]
    # And what Lightning validates is what is evaluated here.
    val = DeviceImages.of(digits.val_set, digits.mean, digits.std, torch.device("cpu"))
    figures = {f"val/{name}": value for name, value in evaluate(training.network, val, 70).items()}
    assert figures == pytest.approx({name: float(trainer.callback_metrics[name]) for name in figures}, rel=1e-4)


def test_side_by_side_each_trains_as_alone(make: Make) -> None:
    convs = [PlainConv(), ACBConv(branch_norm=False)]
    alone = [train([make(conv)])[0] for conv in convs]
    assert train([make(conv) for conv in convs]) == alone


def test_a_training_goes_on_from_its_state(make: Make) -> None:
    whole = make()
    expected = train([whole])[0][11:]
    first = make()
    train_epoch([first])
    first.end_epoch()
    state = copy.deepcopy(first.state_dict())
    second = make()
    train_epoch([second])  # whatever was there before
    second.load_state_dict(state)
    assert second.epoch == 1
    assert train([second]) == [expected]
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_timing_leaves_the_networks_as_they_were(make: Make) -> None:
    trainings = [make(PlainConv()), make()]
    before = [copy.deepcopy(training.state_dict()) for training in trainings]
    times = time_steps(trainings)
    assert len(times.alone) == 2
    assert min(*times.alone, times.together) > 0
    torch.testing.assert_close([training.state_dict() for training in trainings], before, rtol=0, atol=0)


class Replayed:
    """Does a step as a graph does: without autograd's knowledge."""

    def __init__(self, training: NetworkTraining) -> None:
        self.training = training

    def replay(self) -> None:
        network = self.training.network
        tensors = (*network.parameters(), *network.buffers())
        with _unsafe_preserve_version_counter(tensors):
            self.training._step()


def test_what_was_fused_before_a_replay_is_not_used_after_it(make: Make, digits: DigitsDataModule) -> None:
    training = make()
    training._graph = cast(Any, Replayed(training))
    val = DeviceImages.of(digits.val_set, digits.mean, digits.std, torch.device("cpu"))
    seen = []
    while not training.done:
        seen.append(evaluate(training.network, val, 300)["loss"])
        train_epoch([training])
        training.end_epoch()
    seen.append(evaluate(training.network, val, 300)["loss"])
    assert seen[-1] == pytest.approx(evaluate(copy.deepcopy(training.network), val, 300)["loss"], rel=1e-6)
    assert len(set(seen)) == 3


def test_a_loss_that_is_not_finite_is_named_with_its_step(make: Make) -> None:
    training = make(lr=1e30)
    train_epoch([training])
    with pytest.raises(FloatingPointError, match=r"at step \d+ \(counted from 0: epoch 0, batch \d+\); lower"):
        training.end_epoch()
    assert training.epoch == 0


def test_a_network_that_draws_random_numbers_is_refused(make: Make, digits: DigitsDataModule) -> None:
    plain = make()
    network = nn.Sequential(plain.network, nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"layer 1 \(Dropout\) draws random numbers"):
        NetworkTraining(network, plain.optimizer, float, plain.images, plain.batching, epochs=1)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_update_is_that_of_pytorchs_sgd(nesterov: bool, tensor: bool) -> None:
    def parameters() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [nn.Parameter(torch.randn(size, generator=generator)) for size in (7, 5, 3)]

    def optimizer(own: list[nn.Parameter]) -> torch.optim.SGD:
        groups = [
            {"params": own[:2], "weight_decay": 0.01},
            {"params": own[2:], "lr": 0.4, "momentum": 0.0, "nesterov": False},
        ]
        return torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=nesterov)

    expected, own = parameters(), parameters()
    reference, momentum = optimizer(expected), Momentum.like(optimizer(own))
    rates = [group["lr"] for group in reference.param_groups]
    for factor in (1.0, 0.7, 0.2):
        for a, b in zip(expected, own, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        own[1].grad = expected[1].grad = None  # one without a gradient stays as it is
        for group, rate in zip(reference.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        reference.step()
        momentum.step(torch.tensor(factor) if tensor else factor)
    torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("option", ["dampening", "maximize", "differentiable"])
def test_settings_that_change_the_formula_are_refused(option: str) -> None:
    value: Any = 0.1 if option == "dampening" else True
    settings: dict[str, Any] = {option: value}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9, **settings)
    with pytest.raises(ValueError, match=rf"SGD's `{option}` \(={value}\) must be"):
        Momentum.like(optimizer)
    with pytest.raises(ValueError, match=r"must be torch\.optim\.SGD, got Adam"):
        Momentum.like(torch.optim.Adam([nn.Parameter(torch.ones(1))]))


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_graphs_train_as_the_cpu_does(autocast: torch.dtype | None, make: Make, digits: DigitsDataModule) -> None:
    convs = [PlainConv(), ACBConv(gamma_init=1 / 3), ACBConv(branch_norm=False), ACBConv(branch_norm="scale")]
    on_gpu = [make(conv, "cuda", autocast=autocast) for conv in convs]
    before = [copy.deepcopy(training.state_dict()) for training in on_gpu]
    for training in on_gpu:
        training.capture()
    torch.testing.assert_close([training.state_dict() for training in on_gpu], before, rtol=0, atol=0)
    time_steps(on_gpu)
    losses = train(on_gpu)
    tolerance = 1e-2 if autocast is None else 0.1  # TF32, and steps that carry differences on
    for conv, mine, training in zip(convs, losses, on_gpu, strict=True):
        reference = make(conv)
        (expected,) = train([reference])
        torch.testing.assert_close(torch.tensor(mine[:5]), torch.tensor(expected[:5]), rtol=tolerance, atol=tolerance)
        assert mine[-1] == pytest.approx(expected[-1], rel=0.15)
        sets = [
            DeviceImages.of(digits.val_set, digits.mean, digits.std, torch.device(kind)) for kind in ("cuda", "cpu")
        ]
        here = evaluate(training.network, sets[0], 300)["loss"]
        there = evaluate(copy.deepcopy(training.network).cpu(), sets[1], 300)["loss"]
        assert here == pytest.approx(there, rel=1e-2)


def test_images_come_normalised_and_in_order(digits: DigitsDataModule) -> None:
    images = DeviceImages.of(digits.test_set, digits.mean, digits.std, torch.device("cpu"))
    batches: list[tuple[Tensor, Tensor]] = list(images.batches(128))
    assert [len(labels) for _, labels in batches] == [128, 128, 44]
    expected = (digits.test_set.images.permute(0, 3, 1, 2) / 255 - 0.304) / 0.323
    torch.testing.assert_close(torch.cat([batch for batch, _ in batches]), expected)
    assert torch.equal(torch.cat([labels for _, labels in batches]), digits.test_set.labels)
