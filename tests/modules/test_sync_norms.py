"""sync_batchnorm trains and leaves the network that it was given."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.backbones import Timm
from acnet_pl.modules import ImageClassifier, NormSync
from acnet_pl.modules.sync_norms import refuse_lossy_sync
from acnet_pl.nn import ACBConv, convert_to_acnet, fuse_model


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def randomise(model: nn.Module) -> nn.Module:
    """Give batch norms the values of a trained network, and everything float64."""
    for norm in norms(model.double()):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model.eval()


@pytest.fixture
def network() -> nn.Module:
    """Two shared norm-and-activation layers, and a plain batch norm in train mode."""
    model: Any = timm.create_model("efficientnet_lite0", num_classes=5)
    net = nn.Sequential(model.conv_stem, model.bn1, model.blocks[0], nn.BatchNorm2d(16, momentum=None, affine=False))
    net.add_module("again", net[3])
    return randomise(net)


def test_synchronised_network_computes_the_same_and_is_put_back(network: nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected, kinds = network(x), [type(norm) for norm in norms(network)]
    control = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert not torch.allclose(control(x), expected), "PyTorch's own conversion keeps the activation; drop this plugin"
    sync = NormSync()
    synchronised = sync.apply(network)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(synchronised))
    assert synchronised.get_submodule("again") is synchronised.get_submodule("3")
    assert torch.equal(synchronised(x), expected)
    for norm in norms(synchronised):
        assert norm.running_mean is not None
        norm.running_mean.add_(0.1)
        norm.eval()
    changed = synchronised(x)
    restored = sync.revert(synchronised)
    assert [type(norm) for norm in norms(restored)] == kinds
    assert torch.equal(restored(x), changed)
    assert not torch.allclose(changed, expected)


def test_norms_that_lightning_leaves_behind_fuse_and_convert() -> None:
    """Its own plugin ends in a class of Lightning's, which computes what nn.BatchNorm2d does."""
    model = timm.create_model("resnet18", num_classes=5, layers=[1, 1, 1, 1])
    plugin = TorchSyncBatchNorm()
    left = randomise(plugin.revert(plugin.apply(model)))
    assert {type(norm) for norm in norms(left)}.isdisjoint({nn.BatchNorm2d, nn.SyncBatchNorm})
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = left(x)
    acnet = convert_to_acnet(left, init="preserve")
    for network in (fuse_model(left), acnet, fuse_model(acnet)):
        torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    assert not norms(fuse_model(left))
    assert not norms(fuse_model(acnet))


class WithForward(nn.BatchNorm2d):
    """More than a batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_what_cannot_be_synchronised_is_an_error() -> None:
    with pytest.raises(ValueError, match="`1`: a WithForward has a forward of its own"):
        NormSync().apply(nn.Sequential(nn.ReLU(), WithForward(3)))
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(_layer_sync=TorchSyncBatchNorm()))
    with pytest.raises(ValueError, match="`0`: sync_batchnorm=True would replace this WithForward"):
        refuse_lossy_sync(trainer, nn.Sequential(WithForward(3)))
    trainer.strategy._layer_sync = NormSync()
    refuse_lossy_sync(trainer, nn.Sequential(WithForward(3)))


def test_classifier_refuses_before_the_first_step() -> None:
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True, logger=False, enable_checkpointing=False
    )
    model = ImageClassifier(partial(Timm, name="efficientnet_lite0"), ACBConv(), 5)
    model.trainer = trainer
    with pytest.raises(ValueError, match=r"plugins=\[NormSync\(\)\]"):
        model.setup("fit")
    model.setup("test")
