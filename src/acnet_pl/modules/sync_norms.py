"""NormSync: synchronise batch norms over processes and keep what they contain."""

from __future__ import annotations

import sys

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import is_batch_norm
from acnet_pl.nn.surgery.copying import inherit_hooks
from acnet_pl.nn.surgery.plain import carries_activation
from acnet_pl.nn.surgery.replacing import replace_modules

__all__ = ["NormSync", "refuse_lossy_sync"]


class NormSync(TorchSyncBatchNorm):
    """Layer synchronisation that shares batch statistics while ``fit`` runs, and then restores the original layers.

    Lightning's own plugin converts by PyTorch's function, which drops the activation inside timm's ``BatchNormAct2d``,
    and leaves layers of another class behind. The command line uses this one with ``--trainer.sync_batchnorm true``; in
    a script pass ``Trainer(sync_batchnorm=True, plugins=[NormSync()])``.

    Raises:
        ValueError: A batch norm has a forward of its own that a synchronised one would not have; the message names it.
    """

    def __init__(self) -> None:
        self._originals: dict[nn.Module, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace every batch norm, under all its names, by a synchronised one that shares its tensors."""
        replacements: dict[nn.Module, nn.Module] = {}
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
                replacements[module] = _synchronised(name, module)
        self._originals |= {new: old for old, new in replacements.items()}
        return replace_modules(model, replacements)

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the original layers back, with the tensors and mode of those that took their places."""
        for new, old in self._originals.items():
            old.training = new.training
        model = replace_modules(model, self._originals)
        self._originals = {}
        return model


def refuse_lossy_sync(trainer: Trainer, model: nn.Module) -> None:
    """Raise an error if ``sync_batchnorm`` would drop parts of the model's batch norms, such as activations.

    Raises:
        ValueError: The message names the first such batch norm.
    """
    sync = getattr(trainer.strategy, "_layer_sync", None)
    if not isinstance(sync, TorchSyncBatchNorm) or isinstance(sync, NormSync):
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not is_batch_norm(module):
            raise ValueError(
                f"`{name}`: sync_batchnorm=True would replace this {type(module).__name__} by a plain SyncBatchNorm, "
                "which drops its activation, so that another network is trained; pass "
                "Trainer(sync_batchnorm=True, plugins=[NormSync()]) from acnet_pl.modules, which keeps it"
            )


def _synchronised(name: str, norm: _BatchNorm) -> nn.SyncBatchNorm:
    kind: type[nn.SyncBatchNorm] = nn.SyncBatchNorm
    if carries_activation(norm):
        kind = sys.modules["timm.layers"].SyncBatchNormAct
    elif not is_batch_norm(norm):
        raise ValueError(
            f"`{name}`: a {type(norm).__name__} has a forward of its own, which a synchronised batch norm would not "
            "have; train without sync_batchnorm"
        )
    made = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    # Both share the dictionaries themselves, so that they hold the same tensors even if these are replaced.
    made._parameters, made._buffers, made._modules = norm._parameters, norm._buffers, norm._modules
    inherit_hooks(made, norm)
    made.training = norm.training
    return made
