from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn

import acnet_pl
from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import FuseOnFitEnd
from acnet_pl.data import DigitsDataModule
from acnet_pl.deploy import fused_info
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBConv, ACBlock, PlainConv

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval", "ignore:.*many workers")


def fit(tmp_path, callback, conv=None, checkpoint=None, epochs=1, steps=-1, **options):
    model = ImageClassifier(partial(ResNetCifar, depth=8), conv or ACBConv(), **options)
    data = DigitsDataModule(image_size=8, batch_size=256)
    run = pl.Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        callbacks=[callback, checkpoint or ModelCheckpoint(tmp_path, save_last=True)],
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(model, datamodule=data)
    data.setup("test")
    return model, data.normalize(data.test_set.images)


@pytest.mark.parametrize("conv", [PlainConv(), ACBConv(), ACBConv(branch_norm=False)])
def test_the_file_is_the_trained_network_fused(tmp_path, conv):
    callback = FuseOnFitEnd()
    model, images = fit(tmp_path, callback, conv)
    fused = acnet_pl.load_fused(tmp_path / "fused.safetensors")
    assert not any(isinstance(module, (ACBlock, nn.BatchNorm2d)) for module in fused.modules())
    assert not fused.training
    with torch.no_grad(), acnet_pl.explicit_branches(model):
        trained = model.eval()(images)
    with torch.no_grad():
        difference = (trained - fused(images)).abs().max() / trained.abs().max()
    assert difference <= 1e-5
    assert callback.result.weights == "last"
    assert callback.result.path == str(tmp_path / "fused.safetensors")
    assert callback.result.macs_trained >= callback.result.macs_fused > 0


def test_what_is_needed_to_use_it_is_in_the_file(tmp_path):
    fit(tmp_path, FuseOnFitEnd())
    info = fused_info(tmp_path / "fused.safetensors")
    assert info["num_classes"] == 10
    assert info["preprocessing"]["image_shape"] == [3, 8, 8]
    assert len(info["preprocessing"]["mean"]) == len(info["preprocessing"]["std"]) == 3
    assert info["preprocessing"]["class_names"] == [str(i) for i in range(10)]
    assert info["backbone"]["init_args"]["depth"] == 8


def test_plain_and_acnet_deploy_to_the_same_structure(tmp_path):
    results = {}
    for name, conv in (("plain", PlainConv()), ("acnet", ACBConv())):
        callback = FuseOnFitEnd()
        fit(tmp_path / name, callback, conv)
        results[name] = callback.result
    shapes = [
        {k: v.shape for k, v in acnet_pl.load_fused(result.path).state_dict().items()} for result in results.values()
    ]
    assert shapes[0] == shapes[1]
    assert results["plain"].macs_fused == results["acnet"].macs_fused == results["plain"].macs_trained
    assert results["plain"].parameters_fused == results["acnet"].parameters_fused
    assert results["acnet"].macs_trained > results["acnet"].macs_fused


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_monitored_metric_that_was_never_measured_is_told(tmp_path):
    callback = FuseOnFitEnd()
    best = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max")
    with pytest.warns(UserWarning, match="no checkpoint is the best by val/top1, which was not measured") as warned:
        fit(tmp_path, callback, PlainConv(), best, steps=1)  # the validation comes after the epoch's five
    assert all("\n" not in str(each.message) for each in warned if "the best by" in str(each.message))
    assert callback.result.weights == "last"


def test_the_best_checkpoint_is_fused_where_one_is_monitored(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/loss", mode="min", filename="best")

    class Worsen(pl.Callback):
        """Spoil the network before its last validation, so that the best weights are not the last."""

        def on_validation_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    for parameter in pl_module.parameters():
                        parameter.mul_(-3)

    callback = FuseOnFitEnd()
    model = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv(), optimizer=partial(torch.optim.SGD, lr=0.0))
    data = DigitsDataModule(image_size=8, batch_size=256)
    run = pl.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[Worsen(), checkpoint, callback], logger=False,
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(model, datamodule=data)
    assert callback.result.weights == "best"
    assert callback.result.checkpoint == checkpoint.best_model_path
    best = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    twin = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv())
    twin.load_state_dict(best)
    data.setup("test")
    images = data.normalize(data.test_set.images)
    fused = acnet_pl.load_fused(callback.result.path)
    with torch.no_grad():
        assert torch.allclose(fused(images), twin.eval()(images), atol=1e-4)
        assert not torch.allclose(fused(images), model.eval()(images), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_averaged_weights_are_called_so(tmp_path, caplog):
    def swa():
        return StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)

    data = DigitsDataModule(image_size=8, batch_size=256)
    best = ModelCheckpoint(tmp_path / "best", monitor="val/loss")
    for name, callbacks, said in (
        ("none", [], "Fused the last weights into"),
        ("ema", [EMAWeightAveraging(decay=0.5)], "Fused the last, averaged weights into"),
        ("swa", [swa()], "Fused the last, averaged weights into"),
        ("stopped", [swa()], "Fused the last weights into"),  # before they were averaged
        ("best", [EMAWeightAveraging(decay=0.5), best], "Fused the best, averaged weights into"),
        ("not", [swa(), ModelCheckpoint(tmp_path / "not", monitor="val/loss")], "Fused the best weights into"),
    ):
        caplog.clear()
        fuse = FuseOnFitEnd()
        run = pl.Trainer(
            max_epochs=2, accelerator="cpu", callbacks=[*callbacks, fuse], logger=False, limit_train_batches=1,
            limit_val_batches=1, default_root_dir=tmp_path / name, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=name in ("best", "not"),
            max_steps=1 if name == "stopped" else -1,
        )  # fmt: skip
        with caplog.at_level("INFO"):
            run.fit(ImageClassifier(partial(ResNetCifar, depth=8), ACBConv()), datamodule=data)
        assert said in caplog.text, name
        assert fuse.result.weights in said


def test_replacing_an_earlier_file_is_told_and_the_trained_model_stays_trainable(tmp_path):
    (tmp_path / "fused.safetensors").write_bytes(b"of an earlier training")
    with pytest.warns(UserWarning, match="fused.safetensors is there already"):
        model, _ = fit(tmp_path, FuseOnFitEnd(), checkpoint=ModelCheckpoint(tmp_path / "checkpoints"))
    acnet_pl.load_fused(tmp_path / "fused.safetensors")
    assert sum(isinstance(module, ACBlock) for module in model.modules()) == 7
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_folder_that_is_not_utf8_is_told_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"d.udcff.fused.safetensors is not UTF-8"):
        fit(tmp_path / "d\udcff", FuseOnFitEnd())


def test_a_file_that_reads_back_differently_is_an_error(tmp_path, monkeypatch):
    def load(path):
        network = acnet_pl.load_fused(path)
        next(network.parameters()).data.add_(1)
        return network

    monkeypatch.setattr("acnet_pl.callbacks.fuse.load_fused", load)
    with pytest.raises(acnet_pl.FusionError, match="does not give back"):
        fit(tmp_path, FuseOnFitEnd())
