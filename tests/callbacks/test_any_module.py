"""The callbacks on LightningModules that know nothing of acnet_pl, with the batches and tasks that people have."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.plugins.io import AsyncCheckpointIO
from pytorch_lightning.utilities import CombinedLoader
from tests import people
from tests.people import EVERYONE, Own, OwnDicts, OwnPairs, OwnSegmentation, OwnTwoNetworks, loader, trainer
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from acnet_pl import ACBlock, explicit_branches, fuse_model, fused_info, load_fused
from acnet_pl.analysis import compare, kernel_magnitude
from acnet_pl.callbacks import (
    EquivalenceCheck,
    EquivalenceError,
    FuseOnFitEnd,
    KernelMagnitude,
    LateFuse,
    NonFiniteCheck,
    NonFiniteLossError,
    RotationRobustness,
    RunCheckpoint,
)
from acnet_pl.callbacks.plain_loaders import seed_everything

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
        assert check.result.trained_accuracy == check.result.fused_accuracy == pytest.approx(expected)
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


def test_a_network_with_nested_outputs_that_was_fused_wrongly_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: nn.Module, example_input: Any = None) -> Any:
        fused: Any = fuse_model(model, example_input)
        with torch.no_grad():
            fused.coarse.weight.mul_(1.01)
        return fused

    monkeypatch.setattr("acnet_pl.callbacks.subject.fuse_model", wrong)
    with pytest.raises(EquivalenceError, match="part at 'coarse'"):
        trainer(tmp_path, EquivalenceCheck()).fit(
            seeded(OwnSegmentation), loader(OwnSegmentation), loader(OwnSegmentation)
        )


def network_of(model: Own) -> nn.Module:
    return model.model if hasattr(model, "model") else model


@pytest.mark.parametrize("kind", EVERYONE)
def test_the_file_is_the_network_fused(kind: type[Own], tmp_path: Path) -> None:
    told: dict[str, Any] = {"network": "discriminator"} if kind is OwnTwoNetworks else {}
    model, fuse = seeded(kind), FuseOnFitEnd(**told)
    trainer(tmp_path, fuse).fit(model, loader(kind), loader(kind))
    network = model.get_submodule("discriminator") if told else network_of(model)
    fresh = seeded(kind)
    fused = load_fused(
        tmp_path / "fused.safetensors", into=fresh.get_submodule("discriminator") if told else network_of(fresh)
    )
    assert not any(isinstance(module, (ACBlock, nn.BatchNorm2d)) for module in fused.modules())
    figures = compare(network.eval(), fused, loader(kind), inputs=taken[kind])
    assert 0 < figures.max_rel_difference < 1e-5
    assert fuse.result is not None
    assert fuse.result.macs_fused is not None
    assert fuse.result.macs_trained is not None
    assert 0 < fuse.result.macs_fused < fuse.result.macs_trained
    about = fused_info(tmp_path / "fused.safetensors")
    assert about["network"].endswith(type(network).__name__)


taken: dict[type[Own], Any] = {
    Own: lambda batch: batch[0],
    OwnDicts: "image",
    people.OwnDataclasses: "image",
    OwnSegmentation: "image",
    OwnPairs: lambda batch: tuple(batch[0]),
    people.OwnLayers: lambda batch: batch[0],
    OwnTwoNetworks: lambda batch: batch[0],
}


def test_the_networks_of_one_module_are_fused_together_or_each(tmp_path: Path) -> None:
    model = seeded(OwnTwoNetworks)
    each = [FuseOnFitEnd(f"{name}.safetensors", network=name) for name in ("generator", "discriminator")]
    trainer(tmp_path, FuseOnFitEnd("both.safetensors"), *each, max_epochs=1).fit(
        model, loader(OwnTwoNetworks), loader(OwnTwoNetworks)
    )
    both = load_fused(tmp_path / "both.safetensors", into=seeded(OwnTwoNetworks)).state_dict()
    for name in ("generator", "discriminator"):
        one = load_fused(tmp_path / f"{name}.safetensors", into=seeded(OwnTwoNetworks).get_submodule(name))
        for key, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, both[f"{name}.{key}"])


def plain(model: nn.Module) -> bool:
    return not any(isinstance(module, ACBlock) for module in model.modules())


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.parametrize("kind", [Own, OwnSegmentation, OwnPairs, people.OwnLayers])
def test_a_checkpoint_after_late_fusing_loads_into_the_module(kind: type[Own], tmp_path: Path) -> None:
    model = seeded(kind)
    trainer(tmp_path, LateFuse(1), RunCheckpoint()).fit(model, loader(kind), loader(kind))
    assert plain(model)
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = kind.load_from_checkpoint(last, weights_only=True)
    assert plain(again)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    resumed = seeded(kind)
    run = trainer(tmp_path / "on", LateFuse(1), RunCheckpoint(), max_epochs=3)
    run.fit(resumed, loader(kind), loader(kind), ckpt_path=last)
    assert plain(resumed)
    assert run.global_step == 6


@pytest.mark.parametrize("first", ["average", "fuse"])
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_averages_go_on_across_late_fusing(first: str, tmp_path: Path) -> None:
    class Watch(pl.Callback):
        """Holds the average to its function when the network is fused, and to a second average from there on."""

        def __init__(self, averaging: Any) -> None:
            self.averaging, self.before = averaging, torch.empty(0)
            self.image = torch.randn(4, 3, people.SIZE, people.SIZE)
            self.expected: dict[str, Tensor] = {}

        def average(self) -> Any:
            return self.averaging._average_model.module

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                with torch.no_grad(), explicit_branches(self.average()):
                    self.before = self.average().model.eval()(self.image)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (1, 0):
                with torch.no_grad():
                    torch.testing.assert_close(self.average().model.eval()(self.image), self.before)
                self.expected = {name: tensor.clone() for name, tensor in self.average().state_dict().items()}

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            for name, tensor in pl_module.state_dict().items():
                if name in self.expected and tensor.is_floating_point():
                    self.expected[name].lerp_(tensor, 0.5)

    averaging = EMAWeightAveraging(decay=0.5)
    watch = Watch(averaging)
    order = [averaging, LateFuse(1)] if first == "average" else [LateFuse(1), averaging]
    model = seeded(Own)
    trainer(tmp_path, *order, watch, EquivalenceCheck(), RunCheckpoint(), max_epochs=3).fit(
        model, loader(Own), loader(Own)
    )
    assert plain(model)
    assert watch.expected
    for name, tensor in model.state_dict().items():  # which has the average when training has ended
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, watch.expected[name])
    resumed = seeded(Own)
    again = [EMAWeightAveraging(decay=0.5), LateFuse(1), RunCheckpoint()]
    run = trainer(tmp_path / "on", *again, max_epochs=4)
    run.fit(resumed, loader(Own), loader(Own), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert run.global_step == 8
    assert plain(resumed)


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_stochastic_weight_averaging_across_late_fusing(tmp_path: Path) -> None:
    for late in (1, 2):  # before and after the averaging begins
        model = seeded(Own)
        averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
        run = trainer(tmp_path, averaging, LateFuse(late), EquivalenceCheck(), max_epochs=4)
        run.fit(model, loader(Own), loader(Own))
        assert plain(model)
        assert isinstance(averaging._average_model, Own)
        for mine, theirs in zip(model.parameters(), averaging._average_model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("averaging", "message"),
    [
        (StochasticWeightAveraging(0.01, 3), r"`swa_epoch_start` \(=3\) of 2 epochs"),
        (EMAWeightAveraging(update_starting_at_step=9), r"`update_starting_at_step` \(=9\) of \d steps"),
        (
            EMAWeightAveraging(update_starting_at_step=9, update_starting_at_epoch=2),
            r"\(=9\) of \d steps, .* \(=2\) of 2 epochs",
        ),
    ],
)
def test_an_average_that_begins_after_the_training(tmp_path: Path, averaging: pl.Callback, message: str) -> None:
    with pytest.raises(ValueError, match=rf"would average nothing.*{message}"):
        trainer(tmp_path, averaging, FuseOnFitEnd(), max_epochs=2).fit(seeded(Own), loader(Own), loader(Own))


class TestALateFuseThatCannotWork:
    def test_a_block_that_the_network_does_not_use(self, tmp_path: Path) -> None:
        model = seeded(Own)
        model.model.unused = ACBlock(3, 3, 3)
        with pytest.raises(ValueError, match="`unused` takes no part in the evaluation"):
            trainer(tmp_path, LateFuse(1)).fit(model, loader(Own), loader(Own))

    def test_two_networks_are_fused_one_by_one(self, tmp_path: Path) -> None:
        model = seeded(OwnTwoNetworks)
        with pytest.raises(ValueError, match=r"LateFuse calls the network.*network='generator'"):
            trainer(tmp_path, LateFuse(1)).fit(model, loader(OwnTwoNetworks), loader(OwnTwoNetworks))
        trainer(tmp_path, LateFuse(1, "generator")).fit(model, loader(OwnTwoNetworks), loader(OwnTwoNetworks))
        assert plain(model.get_submodule("generator"))
        assert not plain(model.get_submodule("discriminator"))


class DieAt(pl.Callback):
    """Ends the training as a kill does, when a batch begins."""

    def __init__(self, at: tuple[int, int]) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise InterruptedError


class Two(Own):
    """Takes a batch of each of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch[0]) + self.loss(batch[1])


class Keeping(Own):
    def __init__(self, thing: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


class TestRunCheckpointOnAnyModule:
    @pytest.mark.parametrize("kind", [OwnDicts, OwnTwoNetworks])
    def test_a_killed_run_ends_with_the_same_bits(self, kind: type[Own], tmp_path: Path) -> None:
        class Die(pl.Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if (trainer.current_epoch, batch_idx) == (1, 1):
                    raise InterruptedError

        undisturbed = seeded(kind)
        trainer(tmp_path / "a", RunCheckpoint(every_n_steps=1)).fit(undisturbed, loader(kind), loader(kind))
        with pytest.raises(InterruptedError):
            trainer(tmp_path / "b", Die(), RunCheckpoint(every_n_steps=1)).fit(seeded(kind), loader(kind), loader(kind))
        resumed, last = seeded(kind), tmp_path / "b" / "checkpoints" / "last.ckpt"
        run = trainer(tmp_path / "b", RunCheckpoint(every_n_steps=1))
        run.fit(resumed, loader(kind), loader(kind), ckpt_path=last)
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name

    @pytest.mark.parametrize(
        ("at", "options"),
        [
            ((0, 3), {}),
            ((1, 0), {}),
            ((1, 3), {}),
            ((1, 3), {"num_workers": 1}),
            ((1, 0), {"generator": 5}),
            ((1, 3), {"replacement": 5}),
        ],
        ids=str,
    )
    def test_an_ordinary_loader_goes_on_where_it_was(
        self, at: tuple[int, int], options: dict[str, int], tmp_path: Path
    ) -> None:
        def fit(folder: Path, *callbacks: pl.Callback, **more: Any) -> tuple[Own, pl.Trainer]:
            told: dict[str, Any] = dict(options)
            if "generator" in told:
                told["generator"] = torch.Generator().manual_seed(5)
            if "replacement" in told:
                own = torch.Generator().manual_seed(told.pop("replacement"))
                told |= {"sampler": RandomSampler(people.Noisy(), True, 10, own), "shuffle": False}
            model = seeded(Own)
            run = trainer(folder, RunCheckpoint(every_n_steps=1), *callbacks)
            run.fit(model, people.shuffled(**told), loader(Own), **more)
            return model, run

        undisturbed, _ = fit(tmp_path / "a")
        with pytest.raises(InterruptedError):
            fit(tmp_path / "b", DieAt(at))
        torch.manual_seed(99)  # as in another process
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*resum")
            resumed, run = fit(tmp_path / "b", ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt")
        assert run.global_step == 10
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name

    @pytest.mark.parametrize("at", [(2, 1), (3, 1)], ids=["while averaging", "while computing batch norms"])
    def test_stochastic_weight_averaging_goes_on(self, at: tuple[int, int], tmp_path: Path) -> None:
        def fit(folder: Path, *callbacks: pl.Callback, **more: Any) -> tuple[Own, pl.Trainer]:
            model = seeded(Own)
            averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
            all_of_them = [RunCheckpoint(every_n_steps=1), averaging, FuseOnFitEnd(), *callbacks]
            run = trainer(folder, *all_of_them, max_epochs=3)
            run.fit(model, loader(Own), loader(Own), **more)
            return model, run

        undisturbed, whole = fit(tmp_path / "a")
        with pytest.raises(InterruptedError):
            fit(tmp_path / "b", DieAt(at))
        resumed, run = fit(tmp_path / "b", ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt")
        assert (tmp_path / "b" / "fused.safetensors").exists()
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name
        if at[0] == 2:
            assert run.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"]

    def test_every_image_is_seen_once_and_epochs_differ(self, tmp_path: Path) -> None:
        seen: list[int] = []

        class Watch(pl.Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                seen.extend(batch[2].tolist())

        class Numbered(people.Noisy):
            def __getitem__(self, i: int) -> Any:
                return *super().__getitem__(i), i

        def fit(*callbacks: pl.Callback, **more: Any) -> pl.Trainer:
            run = trainer(tmp_path, RunCheckpoint(every_n_steps=2), *callbacks)
            given = people.shuffled(dataset=Numbered())
            run.fit(seeded(Own), given, loader(Own), **more)
            assert run.train_dataloader is given
            return run

        with pytest.raises(InterruptedError):
            fit(DieAt((0, 2)), Watch())
        fit(Watch(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
        first, second = seen[:10], seen[10:]
        assert sorted(first) == sorted(second) == list(range(10))
        assert first != second

    @pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
    def test_a_stream_is_resumed_at_ends_of_epochs(self, tmp_path: Path) -> None:
        def fit(folder: Path, *callbacks: pl.Callback, **more: Any) -> tuple[Own, pl.Trainer]:
            seed_everything("a run")  # the first batches of a stream are drawn before RunCheckpoint is asked
            model = seeded(Own)
            run = trainer(folder, RunCheckpoint(every_n_steps=2), *callbacks)
            with pytest.warns(UserWarning, match="only at ends of epochs, as Stream is an IterableDataset.*Stateful"):
                run.fit(model, people.shuffled(dataset=people.Stream(), shuffle=False), loader(Own), **more)
            return model, run

        undisturbed, _ = fit(tmp_path / "a")
        with pytest.raises(InterruptedError):
            fit(tmp_path / "b", DieAt((1, 4)))
        resumed, run = fit(tmp_path / "b", ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt")
        assert run.global_step == 10
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name

    def test_an_endless_stream_begins_anew(self, tmp_path: Path) -> None:
        def fit(*callbacks: pl.Callback, **more: Any) -> None:
            run = trainer(tmp_path, RunCheckpoint(every_n_steps=2), *callbacks, max_epochs=1)
            data = people.shuffled(dataset=people.Stream(None), shuffle=False)
            run.fit(seeded(Own), data, loader(Own), **more)

        with (
            pytest.raises(InterruptedError),
            pytest.warns(UserWarning, match="begins the data anew, as Stream is an Iter"),
        ):
            fit(DieAt((0, 4)))
        with pytest.warns(UserWarning, match="RunCheckpoint") as told:
            fit(ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
        said = [str(warning.message) for warning in told]
        assert any("4 batches of this epoch may be trained twice, as Stream is an Iter" in text for text in said)

    def test_several_loaders_and_generators_that_are_not_kept(self, tmp_path: Path) -> None:
        noisy = people.Noisy()
        noisy.mine = np.random.default_rng(0)  # type: ignore[attr-defined]
        two = CombinedLoader([people.shuffled(dataset=noisy), people.shuffled()], "min_size")
        with pytest.warns(UserWarning, match="RunCheckpoint") as told:
            trainer(tmp_path, RunCheckpoint(), max_epochs=1).fit(Two(), two, loader(Own))
        said = "\n".join(str(warning.message) for warning in told)
        assert "written only at ends of epochs, as the training has 2 loaders" in said
        assert "draws other numbers from `mine` (Generator) of Noisy, whose state is not kept" in said

    def test_hyper_parameters_that_cannot_be_read_back(self, tmp_path: Path) -> None:
        message = r"`thing` \(type\) of Keeping could not be read back .*save_hyperparameters\(ignore=\['thing'\]\)"
        best = [FuseOnFitEnd(), ModelCheckpoint(tmp_path, monitor="val_loss")]
        for callbacks in ([RunCheckpoint()], best):
            with pytest.raises(ValueError, match=message):
                trainer(tmp_path, *callbacks, enable_checkpointing=True).fit(Keeping(nn.ReLU), loader(Own), loader(Own))
        trainer(tmp_path, RunCheckpoint(), max_epochs=1).fit(Keeping([1, {"a": 2}]), loader(Own), loader(Own))

    def test_another_plugin(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has a AsyncCheckpointIO among its plugins"):
            trainer(tmp_path, RunCheckpoint(), plugins=[AsyncCheckpointIO()]).fit(seeded(Own), loader(Own), loader(Own))


def test_the_best_weights_of_an_own_module(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val_loss", mode="max", filename="best")
    model, fuse = seeded(Own), FuseOnFitEnd()
    trainer(tmp_path, fuse, best, enable_checkpointing=True, max_epochs=3).fit(model, loader(Own), loader(Own))
    assert fuse.result is not None
    assert (fuse.result.weights, fuse.result.checkpoint) == ("best", best.best_model_path)
    twin = Own.load_from_checkpoint(best.best_model_path, weights_only=True)
    fused = load_fused(fuse.result.path, into=seeded(Own).model)
    assert compare(twin.model, fused, loader(Own)).within(1e-5)
    assert not compare(model.model, fused, loader(Own)).within(1e-3)
