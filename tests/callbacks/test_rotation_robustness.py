from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import RotationRobustness
from acnet_pl.data import DigitsDataModule
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBConv

pytestmark = pytest.mark.filterwarnings("ignore:.*many workers")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_figures_are_those_of_the_rotated_images_in_float32(precision, tmp_path):
    torch.manual_seed(0)
    model = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv())
    dtypes = []  # of the logits, of the trained network and of its fused copy

    def note(_, __, logits):
        if len(logits) > 2:  # not the two images on which fusing evaluates the network
            dtypes.append(logits.dtype)

    model.net.register_forward_hook(note)
    data = DigitsDataModule(image_size=12, eval_batch_size=128)
    callback = RotationRobustness()
    run = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        callbacks=[callback],
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (figures,) = run.test(model, datamodule=data, verbose=False)

    assert dtypes == [torch.float32] * 3 * (1 + len(callback.result.accuracy))  # three batches
    images = data.normalize(data.test_set.images)
    labels = data.test_set.labels
    # By hand: rot90 as transpose and flip, so that the direction is checked and not repeated.
    counter_clockwise = images.transpose(-1, -2).flip(-2)
    views = {
        "original": images,
        "rotate_90": counter_clockwise,
        "rotate_180": images.flip(-1).flip(-2),
        "flip_up_down": images.flip(-2),
    }
    model.eval()
    for name, view in views.items():
        with torch.no_grad():
            expected = (model(view).argmax(1) == labels).double().mean().item()
        assert callback.result.accuracy[name][1] == pytest.approx(expected, abs=0.0034)  # one image of 300
        assert figures[f"rotation/{name}/top1"] == pytest.approx(callback.result.accuracy[name][1])
    assert callback.result.samples == 300
    assert figures["rotation/original/top1"] == pytest.approx(figures["test/top1"], abs=0.0034)


def test_it_can_be_switched_off(tmp_path):
    model = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv())
    run = pl.Trainer(accelerator="cpu", callbacks=[RotationRobustness(enabled=False)], logger=False,
                     default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    (figures,) = run.test(model, datamodule=DigitsDataModule(image_size=8), verbose=False)
    assert not any("rotation" in name for name in figures)
