"""KernelMagnitude: log the kernel magnitudes during training (Eq. 9-10, Fig. 6)."""

from __future__ import annotations

from collections import Counter

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from acnet_pl import analysis
from acnet_pl.callbacks.subject import Subject
from acnet_pl.loggers import log_figure
from acnet_pl.nn import FusibleConv

__all__ = ["KernelMagnitude", "commonest_kernel_size"]


class KernelMagnitude(Callback):
    """Log, every few epochs and after the last, the magnitude of the kernels by position.

    Logs ``kernels/skeleton`` and ``kernels/corner``, the shares of the average kernel magnitude matrix (Fig. 6) at
    these locations, ``kernels/skeleton/<layer>`` for every layer, and the matrix as a heat map.
    Even weights would give 5/9 and 4/9. Blocks count fused. ``result`` holds the last matrices.

    Args:
        every_n_epochs: How often; 0 switches it off.
        kernel_size: k of the k×k kernels, odd. None is the commonest of the network's; a network without odd square
            kernels of 3×3 or more has nothing to log.
        network: Name of the submodule to look at, such as "generator". None is the one submodule that holds all
            parameters, or else the LightningModule itself. With a name, what is logged is under ``kernels/<network>/``.
    """

    def __init__(self, every_n_epochs: int = 10, kernel_size: int | None = None, network: str | None = None) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"`every_n_epochs` (={every_n_epochs}) must be at least 0; 0 switches it off")
        self.every_n_epochs = every_n_epochs
        self.kernel_size = kernel_size
        self.subject = Subject(network)
        self._prefix = f"kernels/{network}" if network else "kernels"
        self.result: analysis.KernelMagnitude | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the LightningModule has a submodule named `network`."""
        if self.every_n_epochs and stage == "fit":
            self.subject.check_name(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log on rank zero, after the first epoch too."""
        epoch = trainer.current_epoch + 1
        if not self.every_n_epochs or not trainer.is_global_zero:
            return
        if epoch != 1 and epoch % self.every_n_epochs and epoch != trainer.max_epochs:
            return
        network = self.subject.of(pl_module)
        size = self.kernel_size or commonest_kernel_size(network)
        if size is None:
            return
        try:
            self.result = analysis.kernel_magnitude(network, size)
        except ValueError as error:  # a monitor is not to end a training, whatever its weights have become
            rank_zero_warn(f"kernel magnitude is not logged: {error}")
            return
        shares = {f"{self._prefix}/{where}": self.result.share(where) for where in ("skeleton", "corner")}
        layers = {f"{self._prefix}/skeleton/{name}": self.result.share("skeleton", name) for name in self.result.layers}
        pl_module.log_dict({**shares, **layers}, rank_zero_only=True)
        if trainer.loggers:
            figure = analysis.plot_kernel_magnitude(self.result, titles=[f"epoch {epoch}"])
            log_figure(trainer, f"{self._prefix}/magnitude", figure)


def commonest_kernel_size(network: nn.Module) -> int | None:
    """Return the most common odd kernel size k ≥ 3 of the network's convolutions; None if there is none.

    Args:
        network: Any network; a block counts as one convolution.

    Examples:
        >>> commonest_kernel_size(nn.Sequential(nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)))
        3
    """
    sizes: Counter[int] = Counter()
    inside_blocks = {part for block in network.modules() if isinstance(block, FusibleConv) for part in block.modules()}
    for module in network.modules():
        if isinstance(module, FusibleConv) or (isinstance(module, nn.Conv2d) and module not in inside_blocks):
            height, width = module.kernel_size
            if height == width and height >= 3 and height % 2:
                sizes[height] += 1
    return max(sizes, key=lambda size: (sizes[size], -size)) if sizes else None
