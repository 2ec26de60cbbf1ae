import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import EquivalenceCheck, EquivalenceError
from acnet_pl.data import DigitsDataModule
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBConv, ACBlock, fuse_model

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval", "ignore:.*many workers")


def classifier():
    return ImageClassifier(partial(ResNetCifar, depth=8), ACBConv())


def trainer(tmp_path, *callbacks, **options):
    return pl.Trainer(
        **{"max_epochs": 2, "num_sanity_val_steps": 1, "limit_train_batches": 3} | options,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def data():
    return DigitsDataModule(image_size=8, eval_batch_size=64)


def test_fit_and_validate_log_figures_of_a_rightly_fused_network(tmp_path):
    check = EquivalenceCheck(fit_batches=2)
    model, run = classifier(), trainer(tmp_path, check)
    run.fit(model, datamodule=data())
    assert check.result.samples == 128
    assert 0 < check.result.max_rel_difference < 1e-5
    assert run.callback_metrics["equivalence/max_rel_difference"] == pytest.approx(check.result.max_rel_difference)
    (figures,) = run.validate(model, datamodule=data(), verbose=False)
    assert check.result.samples == 300
    assert check.result.trained_accuracy == pytest.approx(figures["val/top1"])
    assert check.result.fused_accuracy == check.result.trained_accuracy


def test_the_branches_and_not_the_shortcut_are_compared(tmp_path, monkeypatch):
    """Were the shortcut compared with the fused network, a wrongly fused kernel would equal itself."""
    fuse = ACBlock.fuse_kernel

    def wrong(self):
        kernel, bias = fuse(self)
        return kernel * 1.01, bias

    monkeypatch.setattr(ACBlock, "fuse_kernel", wrong)
    check = EquivalenceCheck()
    with pytest.raises(EquivalenceError, match=r"differs from the trained one by more than 0.0001.*'conv1'|'stem'"):
        trainer(tmp_path, check).validate(classifier(), datamodule=data(), verbose=False)


def test_the_layer_where_they_part_is_named(tmp_path, monkeypatch):
    def broken(model, example_input=None):
        fused = fuse_model(model, example_input)
        with torch.no_grad():
            fused.stages[1][0].conv2.weight[0, 0, 0, 0] += 5
        return fused

    monkeypatch.setattr("acnet_pl.callbacks.subject.fuse_model", broken)
    with pytest.raises(EquivalenceError, match=r"part at 'stages\.1\.0\.conv2'"):
        trainer(tmp_path, EquivalenceCheck()).fit(classifier(), datamodule=data())


def test_the_tolerance_decides(tmp_path):
    with pytest.raises(EquivalenceError, match="more than 1e-12"):
        trainer(tmp_path, EquivalenceCheck(tolerance=1e-12)).validate(classifier(), datamodule=data(), verbose=False)


def test_the_trained_model_is_left_as_it_is(tmp_path):
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    trainer(tmp_path, EquivalenceCheck()).validate(model, datamodule=data(), verbose=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.explicit for module in model.modules() if isinstance(module, ACBlock))


def test_it_can_be_switched_off(tmp_path):
    check = EquivalenceCheck(enabled=False)
    run = trainer(tmp_path, check)
    run.validate(classifier(), datamodule=data(), verbose=False)
    assert check.result is None
    assert not any(name.startswith("equivalence/") for name in run.callback_metrics)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_other_precisions_have_tolerances_of_their_own(tmp_path, precision):
    check = EquivalenceCheck()
    run = trainer(tmp_path, check, precision=precision)
    run.validate(classifier(), datamodule=data(), verbose=False)
    limit = {"64-true": 1e-12, "bf16-mixed": 1e-5, "bf16-true": 1e-1}[precision]
    assert check.result.max_rel_difference <= limit
