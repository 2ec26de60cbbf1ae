"""What only a GPU can show: whole runs on it, compiled networks, processes' batch norms, fusing in mid-training.

Each test runs on a CPU too, where it can, so that what is asked of the GPU is known to be right.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from acnet_pl import ACBConv, ImageClassifier, fuse_model
from acnet_pl.analysis import compare
from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import LateFuse
from acnet_pl.cli import main
from acnet_pl.data import DigitsDataModule
from acnet_pl.modules import NormSync
from acnet_pl.nn import ACBlock, ConvBuilder, PlainConv

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BUILDERS = [PlainConv(), ACBConv(gamma_init=1 / 3), ACBConv(branch_norm="scale")]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*many workers",
    "ignore:Grad strides do not match bucket",
    "ignore:.*device[_ ]id.*",  # NCCL's advice for several GPUs
    "ignore:TensorFloat32 tensor cores",  # Inductor's advice
    "ignore:.*[Oo]nline softmax",
)


@pytest.fixture(autouse=True)
def _no_group_is_left() -> Iterator[None]:
    """Lightning leaves the process group of DDP until the process ends; metrics of a later test would use it."""
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(float(outputs["loss"]))


def classifier(conv: ConvBuilder, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(partial(ResNetCifar, depth=8), conv, **options)


def train(folder: Path, device: str, model: ImageClassifier, *callbacks: pl.Callback, **options: Any) -> list[float]:
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        callbacks=[losses, *callbacks],
        **{"max_epochs": 2, "devices": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0, **options},
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=DigitsDataModule(image_size=8, batch_size=256, seed=0))
    return losses.seen


def close(own: list[float], expected: list[float], tolerance: float) -> None:
    torch.testing.assert_close(torch.tensor(own), torch.tensor(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("conv", BUILDERS, ids=["plain", "acnet", "scaled"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_losses_are_those_of_the_cpu(precision: str, conv: ConvBuilder, tmp_path: Path) -> None:
    expected = train(tmp_path, "cpu", classifier(conv))
    close(train(tmp_path, "cuda", classifier(conv), precision=precision)[:4], expected[:4], 2e-2)


@pytest.mark.gpu
def test_a_compiled_network_trains_as_the_eager_one_and_fuses(tmp_path: Path) -> None:
    expected = train(tmp_path, "cuda", classifier(ACBConv(gamma_init=1 / 3)))
    model = classifier(ACBConv(gamma_init=1 / 3), compile=True)
    close(train(tmp_path, "cuda", model)[:4], expected[:4], 1e-2)
    network = model.net.cuda().eval()
    images = torch.randn(16, 3, 8, 8, device="cuda")
    equivalence = compare(network, fuse_model(network), [images])
    assert equivalence.max_rel_difference < 1e-4


@pytest.mark.gpu
def test_fused_kernels_follow_the_weights_under_reduced_overhead() -> None:
    """CUDA graphs inside: in eval mode no kernel fused earlier may be left, nor in training of an earlier step."""
    torch.compiler.reset()
    eager = classifier(ACBConv(gamma_init=1 / 3)).net.cuda()
    network = copy.deepcopy(eager)
    compiled = torch.compile(network, mode="reduce-overhead")
    images, labels = torch.randn(32, 3, 8, 8, device="cuda"), torch.arange(32, device="cuda") % 10
    for _ in range(4):
        losses = []
        for called, own in ((eager, eager), (compiled, network)):
            own.train()
            own.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            loss = nn.functional.cross_entropy(called(images), labels)
            torch.autograd.backward(loss)
            with torch.no_grad():
                for parameter in own.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=0.05)
            losses.append(float(loss.detach()))
        assert losses[1] == pytest.approx(losses[0], rel=1e-2)
        outputs: list[Tensor] = []
        for called, own in ((eager, eager), (compiled, network)):
            own.eval()
            with torch.no_grad():
                torch.compiler.cudagraph_mark_step_begin()
                outputs.append(called(images).clone())
        assert (outputs[0] - outputs[1]).abs().max() < 2e-2 * outputs[0].abs().max()


@pytest.mark.gpu
def test_synchronised_batch_norms_of_one_process_change_nothing(tmp_path: Path) -> None:
    expected = train(tmp_path, "cuda", classifier(ACBConv(gamma_init=1 / 3)))
    model = classifier(ACBConv(gamma_init=1 / 3))
    own = train(tmp_path, "cuda", model, strategy="ddp", sync_batchnorm=True, plugins=[NormSync()])
    close(own[:4], expected[:4], 1e-2)
    network = model.net.cpu().eval()
    assert compare(network, fuse_model(network), [torch.randn(8, 3, 8, 8)]).max_rel_difference < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_that_was_fused_in_mid_training_trains_on(device: str, tmp_path: Path) -> None:
    class Before(pl.Callback):
        """Remembers what the network says of some images before it is fused, and what it says after."""

        def __init__(self) -> None:
            self.outputs: list[Tensor] = []

        def look(self, module: pl.LightningModule) -> None:
            network = module.net
            assert isinstance(network, nn.Module)
            network.eval()
            with torch.no_grad():
                images = (
                    torch.ones(2, 3, 8, 8, device=module.device)
                    * torch.arange(2, device=module.device)[:, None, None, None]
                )
                self.outputs.append(network(images))
            network.train()

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 0:
                self.look(pl_module)

    class After(Before):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pass

        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if (trainer.current_epoch, batch_idx) == (1, 0):
                self.look(pl_module)

    before, after = Before(), After()
    model = classifier(ACBConv(gamma_init=1 / 3))
    strategy = "ddp" if device == "cuda" else "auto"  # whose weights are read on a stream of their own
    losses = train(tmp_path, device, model, before, LateFuse(1), after, strategy=strategy, max_epochs=3)
    assert not any(isinstance(module, ACBlock) for module in model.net.modules())
    torch.testing.assert_close(after.outputs, before.outputs, rtol=2e-2, atol=2e-2)
    assert losses[-1] < losses[4] < losses[0]


@pytest.mark.parametrize(
    ("device", "engine"),
    [
        ("cpu", "graphs"),
        pytest.param("cuda", "graphs", marks=pytest.mark.gpu),
        pytest.param("cuda", "fit", marks=pytest.mark.gpu),
    ],
)
def test_a_grid_from_training_to_summary(
    device: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    accelerator = "gpu" if device == "cuda" else "cpu"
    options = ["--models", "resnet8", "--variants", "acb", "--seeds", "0", "--epochs", "3", "--pruning_seeds", "1"]
    options += ["--data.image_size", "8", "--trainer.accelerator", accelerator, "--runs_dir", str(tmp_path)]
    options += ["--trainer.precision", "bf16-mixed" if device == "cuda" else "32-true"]
    assert main(["reproduce", "digits", *options, "--engine", engine]) == 0
    (path,) = tmp_path.glob("*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["equivalence"]["max_rel_difference"] < 1e-4
    assert summary["metrics"]["test/top1"] == pytest.approx(summary["rotation"]["original/top1"], abs=0.01)
    assert summary["metrics"]["test/top1"] > 0.5
    if engine == "graphs":
        assert summary["engine"]["cuda_graph"] == (device == "cuda")
