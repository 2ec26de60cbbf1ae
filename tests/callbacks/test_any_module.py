"""The callbacks on LightningModules that know nothing of acnet_pl, with the batches and tasks that people have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from tests import people
from tests.people import EVERYONE, Own, OwnDicts, OwnPairs, OwnSegmentation, OwnTwoNetworks, loader, trainer
from torch import Tensor, nn

from acnet_pl import ACBlock, explicit_branches, fuse_model
from acnet_pl.analysis import kernel_magnitude
from acnet_pl.callbacks import (
    EquivalenceCheck,
    EquivalenceError,
    KernelMagnitude,
    NonFiniteCheck,
    NonFiniteLossError,
    RotationRobustness,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def pixel_accuracy(outputs: Any, batch: Any) -> Tensor:
    right: Tensor = outputs["masks"].argmax(1) == batch["mask"]
    return right.double().mean()


def options(kind: type[Own]) -> dict[str, Any]:
    """What the callbacks have to be told of a module, if anything."""
    if kind is OwnTwoNetworks:
        return {"network": "discriminator"}
    return {"metric": pixel_accuracy} if kind is OwnSegmentation else {}


def seeded(kind: type[Own]) -> Own:
    torch.manual_seed(0)
    return kind()


@pytest.mark.parametrize("kind", EVERYONE)
def test_figures_are_those_of_the_module(kind: type[Own], tmp_path: Path) -> None:
    model, told = seeded(kind), options(kind)
    check, rotation = EquivalenceCheck(**told), RotationRobustness(**told)
    run = trainer(tmp_path, check, rotation)
    run.fit(model, loader(kind), loader(kind))
    (figures,) = run.test(model, loader(kind), verbose=False)
    assert check.result is not None
    assert check.result.samples == 2 * people.COUNT
    assert 0 < check.result.max_rel_difference < 1e-5

    correct: list[Tensor] = []
    model.eval()
    for batch in loader(kind):
        with torch.no_grad():
            if kind is OwnTwoNetworks:
                logits, labels = model.get_submodule("discriminator")(batch[0]), batch[1]
            else:
                logits, labels = model.logits_and_labels(batch)
        correct.append((logits.argmax(1) == labels).double())
    expected = torch.cat(correct).mean().item()
    name = "rotation/discriminator" if kind is OwnTwoNetworks else "rotation"
    assert figures[f"{name}/original/{'metric' if 'metric' in told else 'top1'}"] == pytest.approx(expected)
    if "metric" not in told:
        assert check.result.trained_accuracy == check.result.folded_accuracy == pytest.approx(expected)
    else:
        assert check.result.top1_agreement is check.result.trained_accuracy is None
        (figures,) = run.validate(model, loader(kind), verbose=False)
        assert figures["equivalence/trained_metric"] == pytest.approx(expected)


def test_maps_are_turned_back(tmp_path: Path) -> None:
    """A network that looks at single pixels segments a turned image as well as the image."""
    model = seeded(OwnSegmentation)
    model.model = PixelByPixel()
    rotation = RotationRobustness(metric=pixel_accuracy)
    trainer(tmp_path, rotation).test(model, loader(OwnSegmentation), verbose=False)
    assert len(set(rotation.scores.values())) == 1
    assert 0 < rotation.scores["original"] < 1


class PixelByPixel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, people.CLASSES, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"masks": self.conv(image)}


@pytest.mark.parametrize("averaging_first", [True, False])
def test_averaged_weights_are_compared_in_any_order(averaging_first: bool, tmp_path: Path) -> None:
    check, averaging = EquivalenceCheck(), EMAWeightAveraging(decay=0.5)
    order = [averaging, check] if averaging_first else [check, averaging]
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
            if not seen:
                with torch.no_grad(), explicit_branches(pl_module):
                    seen.append((pl_module.model(batch[0]).argmax(1) == batch[1]).double().mean().item())

    model = seeded(Own)
    trainer(tmp_path, *order, Watch(), max_epochs=1).fit(model, loader(Own), loader(Own, 1))
    assert check.result is not None
    assert check.result.trained_accuracy == pytest.approx(seen[0])


def test_kernels_are_found_in_any_module(tmp_path: Path) -> None:
    for kind in EVERYONE:
        model, callback = seeded(kind), KernelMagnitude()
        trainer(tmp_path, callback, max_epochs=1).fit(model, loader(kind), loader(kind))
        network = model.model if hasattr(model, "model") else model
        assert callback.result == kernel_magnitude(network)


@pytest.mark.parametrize("kind", [OwnDicts, OwnPairs, OwnTwoNetworks])
def test_the_layer_that_is_not_finite_is_named(kind: type[Own], tmp_path: Path) -> None:
    model = seeded(kind)
    broken = next(module for module in model.modules() if isinstance(module, ACBlock))
    with torch.no_grad():
        broken.square.weight.fill_(torch.nan)  # type: ignore[union-attr]
    name = next(name for name, module in model.named_modules() if module is broken).partition(".")[2]
    told: dict[str, Any] = {"network": "generator"} if kind is OwnTwoNetworks else {}
    with pytest.raises(NonFiniteLossError, match=re.escape(f"layer {name}.square (Conv2d) has non-finite weights")):
        trainer(tmp_path, NonFiniteCheck(**told)).fit(model, loader(kind), loader(kind))


class Unsupported(Own):
    """Batches without names for what is in them."""

    batches = staticmethod(lambda n: {"a": people.tuples(n)[0], "b": people.tuples(n)[1]})

    def logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.model(batch["a"]), batch["b"]


@pytest.mark.parametrize("callback", [EquivalenceCheck, RotationRobustness])
class TestWhatCannotWorkIsSaidBeforeTheFirstStep:
    def refused(self, model: Own, callback: Any, message: str, folder: Path) -> None:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            trainer(folder, callback).fit(model, loader(type(model)), loader(type(model)))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_no_such_network(self, callback: Any, tmp_path: Path) -> None:
        message = "`network` is 'net', which Own has not; its submodules: model"
        self.refused(Own(), callback(network="net"), message, tmp_path)

    def test_which_of_two_networks(self, callback: Any, tmp_path: Path) -> None:
        message = r"has no forward and not one network \(generator, discriminator\); name it: .*network='generator'"
        self.refused(OwnTwoNetworks(), callback(), message, tmp_path)

    def test_an_input_that_cannot_be_told(self, callback: Any, tmp_path: Path) -> None:
        message = r"a batch that is a dict with a, b; say it with `inputs`"
        self.refused(Unsupported(), callback(), message, tmp_path)
        model = Unsupported()
        trainer(tmp_path, callback(inputs="a"), max_epochs=1).fit(model, loader(Unsupported), loader(Unsupported))
        told = callback(inputs=lambda batch: batch["a"])
        trainer(tmp_path, told, max_epochs=1).fit(model, loader(Unsupported), loader(Unsupported))

    def test_the_wrong_input(self, callback: Any, tmp_path: Path) -> None:
        message = "the network cannot be evaluated on what was taken out of a batch"
        self.refused(OwnDicts(), callback(inputs="label"), message, tmp_path)


def test_no_classifier_and_no_metric(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"RotationRobustness: the model must give logits.*give `metric`"):
        trainer(tmp_path, RotationRobustness()).fit(
            seeded(OwnSegmentation), loader(OwnSegmentation), loader(OwnSegmentation)
        )


def test_a_wrong_fold_of_nested_outputs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, example_input: Any = None) -> Any:
        folded: Any = fuse_model(model, example_input)
        with torch.no_grad():
            folded.coarse.weight.mul_(1.01)
        return folded

    monkeypatch.setattr("acnet_pl.callbacks.subject.fuse_model", wrong)
    with pytest.raises(EquivalenceError, match="part at 'coarse'"):
        trainer(tmp_path, EquivalenceCheck()).fit(
            seeded(OwnSegmentation), loader(OwnSegmentation), loader(OwnSegmentation)
        )
