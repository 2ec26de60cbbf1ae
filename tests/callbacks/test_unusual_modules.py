"""Callbacks with networks that are made late, batches that no rule fits, and several checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tests import people
from tests.people import Own, block, loader, trainer
from torch import Tensor, nn
from torch.nn.utils import prune

from acnet_pl import fuse_model, load_fused
from acnet_pl.analysis import compare
from acnet_pl.analysis.inputs import sample_count
from acnet_pl.callbacks import EquivalenceCheck, FuseOnFitEnd, KernelMagnitude, LateFuse, NonFiniteCheck
from acnet_pl.callbacks.preprocessing import describe_images
from acnet_pl.callbacks.subject import few
from acnet_pl.deploy import describe_inputs, save_fused

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def assert_file_is(fuse: FuseOnFitEnd, network: nn.Module, fresh: nn.Module) -> None:
    assert fuse.result is not None
    images = people.tuples(4)[0]
    with torch.no_grad():
        torch.testing.assert_close(load_fused(fuse.result.path, into=fresh)(images), network.eval()(images))


class Late(Own):
    def __init__(self) -> None:
        super(Own, self).__init__()


class MadeInSetup(Late):
    def setup(self, stage: str) -> None:
        self.model = people.Classifier()


class MadeInConfigureModel(Late):
    def configure_model(self) -> None:
        self.model = people.Classifier()


@pytest.mark.parametrize("kind", [MadeInSetup, MadeInConfigureModel])
@pytest.mark.parametrize("network", [None, "model"])
def test_networks_that_are_made_after_the_callbacks_are_set_up(
    kind: type[Own], network: str | None, tmp_path: Path
) -> None:
    model, fuse = kind(), FuseOnFitEnd(network=network)
    checks = [EquivalenceCheck(network=network), LateFuse(1, network=network), NonFiniteCheck(network=network)]
    trainer(tmp_path, fuse, *checks, KernelMagnitude(network=network)).fit(model, loader(kind), loader(kind))
    assert_file_is(fuse, model.model, people.Classifier())


@pytest.mark.parametrize("callback", [EquivalenceCheck, FuseOnFitEnd])
def test_a_wrong_name_in_a_late_network_is_told_before_the_first_step(callback: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'other', which MadeInSetup has not; its submodules: model"):
        trainer(tmp_path, callback(network="other")).fit(MadeInSetup(), loader(Own), loader(Own))


class Generator(Own):
    """``forward`` takes noise, of which no batch says anything."""

    def __init__(self) -> None:
        super(Own, self).__init__()
        self.generator = nn.Sequential(nn.Linear(4, 4 * 64), nn.Unflatten(1, (4, 8, 8)), block(4, 3))
        self.critic = nn.Linear(3 * 64, 1)

    def forward(self, noise: Tensor) -> Tensor:
        made: Tensor = self.generator(noise)
        return made

    def loss(self, batch: Any) -> Tensor:
        score: Tensor = self.critic(self(torch.randn(len(batch[0]), 4)).flatten(1)).mean()
        return score


def test_what_no_batch_holds_is_done_without_or_asked_for(tmp_path: Path) -> None:
    model, fuse = Generator(), FuseOnFitEnd()
    trainer(tmp_path, fuse).fit(model, loader(Own), loader(Own))
    assert fuse.result is not None
    noise = torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(load_fused(fuse.result.path, into=Generator())(noise), model.eval()(noise))
    for callback in (EquivalenceCheck(), LateFuse(1), FuseOnFitEnd(inputs=lambda batch: batch[0])):
        with pytest.raises(
            ValueError, match=r"cannot be evaluated on .*mat1 and mat2.*say what it takes with `inputs`"
        ):
            trainer(tmp_path / type(callback).__name__, callback).fit(Generator(), loader(Own), loader(Own))


@pytest.mark.parametrize("images", [3, 4])
@pytest.mark.parametrize("kind", [list, tuple])
def test_images_of_different_sizes_are_counted_and_kept_whole(kind: Any, images: int) -> None:
    inputs = (kind(torch.zeros(3, 8 + i, 9) for i in range(images)),)
    assert sample_count(inputs) == images
    assert [tuple(image.shape) for image in few(inputs)[0]] == [(3, 8, 9), (3, 9, 9)]


@pytest.mark.parametrize("first", [True, False])
def test_the_checkpoint_that_monitors_counts_wherever_it_stands(first: bool, tmp_path: Path) -> None:
    best, every = ModelCheckpoint(tmp_path / "best", monitor="val_loss"), ModelCheckpoint(tmp_path / "every")
    fuse, model = FuseOnFitEnd(), Own()
    saving = [best, every] if first else [every, best]
    trainer(tmp_path, fuse, *saving, enable_checkpointing=True, max_epochs=1).fit(model, loader(Own), loader(Own))
    assert fuse.result is not None
    assert (fuse.result.weights, fuse.result.checkpoint) == ("best", best.best_model_path)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_a_file_of_another_precision_loads_into_a_float32_network(precision: torch.dtype, tmp_path: Path) -> None:
    network, images = people.Classifier().eval(), people.tuples(2)[0].to(precision)
    fused = fuse_model(network.to(precision), images)
    path = save_fused(fused, tmp_path / "fused.safetensors", {"inputs": describe_inputs(images)})
    torch.testing.assert_close(load_fused(path, into=people.Classifier())(images), fused(images))


def test_data_modules_that_mean_something_else_by_the_names_say_nothing() -> None:
    told = {"image_shape": (3, 8, 8), "mean": torch.ones(3), "std": (1, 1, 1), "class_names": ("a", 1)}
    assert describe_images(SimpleNamespace(**told)) == {
        "image_shape": [3, 8, 8],
        "mean": [1.0] * 3,
        "std": [1.0] * 3,
        "class_names": ["a", "1"],
    }
    for name, value in [("mean", None), ("std", 0.5), ("class_names", None), ("image_shape", (8, 8))]:
        assert describe_images(SimpleNamespace(**{**told, name: value})) == {}


def test_counting_that_fails_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("no gradient")

    monkeypatch.setattr("acnet_pl.callbacks.fuse.complexity", fails)
    fuse, model = FuseOnFitEnd(), Own()
    with pytest.warns(UserWarning, match="multiply-accumulates are not counted: AssertionError: no gradient"):
        trainer(tmp_path, fuse, max_epochs=1).fit(model, loader(Own), loader(Own))
    assert fuse.result is not None
    assert fuse.result.macs_fused is None
    assert_file_is(fuse, model.model, people.Classifier())


class Masked(people.Classifier):
    """A class that is switched off, and noise in eval mode as well, as variational networks have it."""

    def forward(self, image: Tensor) -> Tensor:
        logits = super().forward(image)
        return (logits + torch.randn_like(logits)).masked_fill(torch.arange(people.CLASSES) == 1, -torch.inf)


class Aliased(Own):
    """A part of the network under a second name, as BackboneFinetuning wants it."""

    network = Masked

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.model.body

    def loss(self, batch: Any) -> Tensor:
        loss: Tensor = self.model(batch[0])[:, 0].square().mean()
        return loss


def test_noise_and_masks_in_eval_mode_are_no_difference(tmp_path: Path) -> None:
    check = EquivalenceCheck()
    trainer(tmp_path, check, max_epochs=1).fit(Aliased(), loader(Own), loader(Own))
    assert check.result is not None
    assert 0 < check.result.max_abs_difference < 1e-5
    assert check.result.top1_agreement == 1


def test_a_mask_that_only_one_of_the_two_has_is_found(tmp_path: Path) -> None:
    trained = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    other = nn.Sequential(*trained, nn.Threshold(0.0, -torch.inf))
    assert not compare(trained, other, [(torch.ones(2, 1, 2, 2), torch.tensor([0, 1]))]).within(1e-4)
    assert not compare(other, trained, [(torch.ones(2, 1, 2, 2), torch.tensor([0, 1]))]).within(1e-4)


def test_a_pruned_layer_costs_no_file(tmp_path: Path) -> None:
    def pruned() -> Own:
        model = Own()
        prune.l1_unstructured(model.model.stem, "weight", 0.5)  # type: ignore[no-untyped-call]
        return model

    model, fuse = pruned(), FuseOnFitEnd()
    trainer(tmp_path, fuse, LateFuse(1)).fit(model, loader(Own), loader(Own))
    assert_file_is(fuse, model.model, pruned().model)
