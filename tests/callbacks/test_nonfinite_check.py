from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from acnet_pl import ACBConv, ImageClassifier
from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import NonFiniteCheck, NonFiniteLossError
from acnet_pl.callbacks.nonfinite import first_nonfinite
from acnet_pl.data import DigitsDataModule

BAD = (3, 5)  # batches whose loss is not finite


class SpoilsSomeBatches(ImageClassifier):
    """Multiplies the images of some batches so that a layer overflows, or leaves those batches out altogether."""

    def __init__(self, *args: Any, value: float = float("inf"), leave_out: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.value, self.leave_out = value, leave_out
        self.before: dict[str, Tensor] = {}
        self.unchanged: list[bool] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        if batch_idx not in BAD:
            return super().training_step(batch, batch_idx)
        self.before = {name: value.clone() for name, value in self.net.state_dict().items()}
        if self.leave_out:
            return None
        batch[0].mul_(self.value)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in BAD:
            after = self.net.state_dict()
            self.unchanged.append(all(torch.equal(after[name], value) for name, value in self.before.items()))


def train(
    folder: Path,
    check: NonFiniteCheck,
    *,
    precision: Any = "32-true",
    scaler: Any = None,
    accumulate: int = 1,
    accelerator: str = "cpu",
    **options: Any,
) -> SpoilsSomeBatches:
    torch.manual_seed(0)
    half = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]} if scaler else {"precision": precision}
    model = SpoilsSomeBatches(partial(ResNetCifar, depth=8), ACBConv(), **options)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        limit_train_batches=BAD[-1] + 2,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        **half,
        callbacks=[check],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(
        model, datamodule=DigitsDataModule(image_size=8, batch_size=24 if scaler else 120)
    )  # a CPU is slow in float16
    return model


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*does not have many workers", "ignore:.*returned `None`")
class TestTraining:
    def test_it_stops_with_the_weights_of_the_step_before(self, tmp_path: Path) -> None:
        holder: list[SpoilsSomeBatches] = []

        class Keeps(NonFiniteCheck):
            def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
                holder.append(pl_module)

        with pytest.raises(NonFiniteLossError) as stop:
            train(tmp_path, Keeps(), value=1e38)
        message = str(stop.value)
        assert "at step 3 (counted from 0: epoch 0, batch 3, images [" in message
        (indices,) = re.findall(r"images \[([0-9, ]+)\]", message)
        assert len(set(indices.split(", "))) == 120
        assert re.search(r"layer \S+ \(\w+\) is the first whose output is not finite", message)
        (model,) = holder
        for name, parameter in model.net.named_parameters():
            assert torch.equal(parameter, model.before[name])

    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_leaving_batches_out_is_as_if_they_had_not_been(self, precision: str, tmp_path: Path) -> None:
        check = NonFiniteCheck(skip=len(BAD))
        with pytest.warns(UserWarning, match=r"Passing over batch [12] of 2: loss not finite at step [35]"):
            passed_over = train(tmp_path, check, precision=precision)
        assert check.skipped == len(BAD)
        never_seen = train(tmp_path, NonFiniteCheck(), precision=precision, leave_out=True)
        expected = never_seen.net.state_dict()
        for name, value in passed_over.net.state_dict().items():
            assert torch.equal(value, expected[name]), name

    @pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_the_answer_comes_in_time_on_any_device(self, accumulate: int, accelerator: str, tmp_path: Path) -> None:
        """On a GPU it is copied without waiting, and an event says when it is there."""
        check = NonFiniteCheck(skip=len(BAD))
        with pytest.warns(UserWarning, match=r"Passing over batch [12] of 2: loss not finite at step \d"):
            model = train(tmp_path, check, accelerator=accelerator, accumulate=accumulate)
        assert check.skipped == len(BAD)
        assert all(value.isfinite().all() for value in model.net.state_dict().values())
        assert (check._event is not None) == (accelerator == "gpu")
        with pytest.raises(NonFiniteLossError, match=r"epoch 0, batch 3, images \["):
            train(tmp_path, NonFiniteCheck(), accelerator=accelerator)

    def test_leaving_batches_out_under_a_gradient_scaler(self, tmp_path: Path) -> None:
        scaler, check = torch.amp.GradScaler("cpu"), NonFiniteCheck(skip=len(BAD))
        with pytest.warns(UserWarning, match=r"Passing over batch [12] of 2: loss not finite at step [35]"):
            model = train(tmp_path, check, scaler=scaler)
        assert model.unchanged == [True, True]
        assert check.skipped == len(BAD)
        assert scaler.get_scale() == 2.0**16 / 4  # halved for each of them, as for any overflow
        assert all(value.isfinite().all() for value in model.net.state_dict().values())

    @pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")  # of a step that the scaler left out
    def test_gradients_that_overflow_are_the_scalers_business(self, tmp_path: Path) -> None:
        scaler, check = torch.amp.GradScaler("cpu", init_scale=2.0**24), NonFiniteCheck()
        model = train(tmp_path, check, scaler=scaler, value=1.0)
        assert scaler.get_scale() < 2.0**24
        assert check.skipped == 0
        assert all(value.isfinite().all() for value in model.net.state_dict().values())

    def test_one_more_than_may_be_left_out_stops(self, tmp_path: Path) -> None:
        with (
            pytest.warns(UserWarning, match="Passing over batch 1 of 1"),
            pytest.raises(NonFiniteLossError, match=r"at step 5 .*nonfinite.skip N \(=1; passed over so far: 1\)"),
        ):
            train(tmp_path, NonFiniteCheck(skip=1))

    def test_of_batches_whose_gradients_are_accumulated_the_right_one_is_named(self, tmp_path: Path) -> None:
        said = {}
        for accumulate in (1, 2, 5):
            with pytest.raises(NonFiniteLossError) as stop:
                train(tmp_path, NonFiniteCheck(), value=1e38, accumulate=accumulate)
            found = re.search(
                r"\(counted from 0: epoch 0, (batch 3, images \[[0-9, ]+\])(.*?)\. The weights", str(stop.value)
            )
            assert found, stop.value
            said[accumulate] = found.groups()
        assert said[1][0] == said[2][0] == said[5][0]
        assert "is the first whose output is not finite" in said[2][1]  # the last of its step, which is at hand
        assert said[5][1] == "; set trainer.accumulate_grad_batches=1 to be told the layer)"

    def test_switched_off_it_lets_them_through(self, tmp_path: Path) -> None:
        model = train(tmp_path, NonFiniteCheck(enabled=False))
        assert any(not parameter.isfinite().all() for parameter in model.net.parameters())


def test_the_first_layer_is_named_and_nothing_changed() -> None:
    torch.manual_seed(0)
    second = nn.Conv2d(4, 4, 3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), second, nn.Flatten())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    assert first_nonfinite(net, images) == "the output of every layer is finite, so the loss itself is out of range"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert first_nonfinite(net, images / 0) == "the images themselves are not finite"
    assert (
        first_nonfinite(net, images.clamp(-1, 1) * 3e38) == "layer 0 (Conv2d) is the first whose output is not finite"
    )
    nn.init.constant_(second.weight, float("nan"))
    assert first_nonfinite(net, images) == "layer 3 (Conv2d) has non-finite weights"


def test_a_negative_allowance_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        NonFiniteCheck(skip=-1)


class TwoOptimizers(LightningModule):
    """A GAN's training: a discriminator's step, then a generator's."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        loss = self.discriminator(self.generator(batch[0])).mean() * (float("nan") if batch_idx == 1 else 1)
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.01) for part in (self.generator, self.discriminator)], []


def test_of_several_optimizers_no_batch_is_left_out(tmp_path: Path) -> None:
    """The first may have made its step before the second one's loss is known."""
    loader = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8)), 2)
    for skip, error, message in ((1, ValueError, "with 2 optimizers"), (0, NonFiniteLossError, "the loss is not")):
        model = TwoOptimizers()
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[NonFiniteCheck(skip=skip)], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        with pytest.raises(error, match=message):
            trainer.fit(model, loader)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
