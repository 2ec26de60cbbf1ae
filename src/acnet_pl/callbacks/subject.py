"""Find the network that a callback examines in any LightningModule."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import Metric

from acnet_pl.analysis.evaluation import evaluating, placed
from acnet_pl.analysis.inputs import Inputs, describe_batch, images_apart, network_inputs, sample_count
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import FusibleConv, fuse_model
from acnet_pl.nn.surgery.copying import deep_copy
from acnet_pl.nn.surgery.running import call

__all__ = ["Subject", "few", "require_whole_parameters"]


@dataclass(frozen=True)
class Subject:
    """Network that a callback examines, and its input.

    Args:
        network: Name of a submodule, such as "generator" or "model.encoder". None is the one submodule that holds all
            parameters, as in ``self.model = Net()``, or else the LightningModule itself.
        inputs: What the network takes of a batch, see `acnet_pl.analysis.network_inputs`.
    """

    network: str | None = None
    inputs: Inputs = None

    def of(self, pl_module: LightningModule) -> nn.Module:
        """Return the network.

        Raises:
            ValueError: There is no submodule of this name.
        """
        if self.network is not None:
            try:
                return pl_module.get_submodule(self.network)
            except AttributeError as error:
                raise ValueError(
                    f"`network` is {self.network!r}, which {type(pl_module).__name__} has not; its submodules: "
                    f"{', '.join(name for name, _ in pl_module.named_children()) or 'none'}"
                ) from error
        everything = {*pl_module.parameters()}
        children = _children_with_parameters(pl_module).values()
        whole = [child for child in children if everything == {*child.parameters()}]  # others may be parts of it
        if len(whole) == 1:
            (only,) = whole
            if not isinstance(only, (FusibleConv, nn.Conv2d, nn.Linear, nn.ModuleList, nn.ModuleDict)):
                orig: nn.Module = getattr(only, "_orig_mod", only)  # of what torch.compile returned
                return orig
        return pl_module

    def has_forward(self, pl_module: LightningModule) -> bool:
        """Return True if the network can be called; False for a LightningModule without ``forward``."""
        return self.of(pl_module) is not pl_module or is_overridden("forward", pl_module)

    def prefix(self, pl_module: LightningModule) -> str:
        """Return the prefix of the network's tensors in the LightningModule, such as "model.", or ""."""
        network = self.of(pl_module)
        return next(f"{name}." if name else "" for name, module in pl_module.named_modules() if module is network)

    def check(self, trainer: Trainer, pl_module: LightningModule, callback: object) -> None:
        """Raise an error before the first step if the network cannot be called.

        Raises:
            ValueError: There is no such submodule, or no one network and no ``forward``, or processes share parameters.
        """
        require_whole_parameters(trainer, callback)
        if _is_complete(pl_module):
            self._require_forward(pl_module, type(callback).__name__)

    def check_name(self, pl_module: LightningModule) -> None:
        """Raise ValueError in `setup` if there is no submodule of this name.

        A LightningModule that makes its layers in its own ``setup`` or in ``configure_model``, which come later, is
        passed: it is looked at again with the first batch.
        """
        if _is_complete(pl_module):
            self.of(pl_module)

    def inputs_of(self, pl_module: LightningModule, batch: Any) -> Any:
        """Return the network's input from a batch, on its device and in its precision.

        Raises:
            ValueError: There is no network to call, its input cannot be told, or the batch has no such part.
        """
        self._require_forward(pl_module)
        network = self.of(pl_module)
        return placed(network, network_inputs(network, batch, self.inputs))

    def first_inputs_of(self, pl_module: LightningModule, batch: Any) -> Any:
        """Return the network's input from the first batch, as `inputs_of` does, after trying it on the network.

        Raises:
            ValueError: As `inputs_of`, or the network does not take the input.
        """
        inputs = self.inputs_of(pl_module, batch)
        if sample_count(inputs) and not isinstance(pl_module, ImageClassifier):  # whose batches are known
            network = deep_copy(self.of(pl_module))  # which may keep something of its first call
            devices = list({parameter.device for parameter in network.parameters() if parameter.is_cuda})
            with evaluating(network), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
                try:
                    call(network, few(inputs))
                except Exception as error:  # whatever a network's code raises
                    raise _not_taken(inputs, f"{type(error).__name__}: {error}") from error
        return inputs

    def _require_forward(self, pl_module: LightningModule, callback: str = "Callback") -> None:
        if not self.has_forward(pl_module):
            names = list(_children_with_parameters(pl_module))
            raise ValueError(
                f"{callback} calls the network, but {type(pl_module).__name__} has no forward and not "
                f"one network ({', '.join(names) or 'no submodules with parameters'}); name it: "
                f"{callback}(network={names[0] if names else 'model'!r})"
            )

    def fused(self, pl_module: LightningModule, inputs: Any) -> nn.Module:
        """Return a fused copy of the network, in eval mode.

        Args:
            pl_module: Left as it is.
            inputs: An input of the network, for what its code alone does not tell.

        Raises:
            FusionError: A layer cannot be fused.
            ValueError: The network does not take the input.
        """
        network = self.of(pl_module)
        with evaluating(network), warnings.catch_warnings():
            # A LightningModule warns of attributes that need a trainer, which a copy has not.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            try:
                return fuse_model(network, few(inputs)).eval()
            except ValueError as error:
                if "example_input" not in str(error):
                    raise
                raise _not_taken(inputs, str(error.__cause__)) from error


def require_whole_parameters(trainer: Trainer, callback: object) -> None:
    """Raise ValueError for strategies that split parameters over processes."""
    whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
    if not whole or isinstance(trainer.strategy, DeepSpeedStrategy):
        raise ValueError(
            f"{type(callback).__name__} needs all parameters in one process, which {type(trainer.strategy).__name__} "
            "does not promise; use one device or trainer.strategy=ddp"
        )


def few(inputs: Any, samples: int = 2) -> Any:
    """Return the first samples of a network's input."""
    if (images := images_apart(inputs)) is not None:
        return (images[:samples], *inputs[1:])
    count = sample_count(inputs)

    def head(tensor: Tensor) -> Tensor:
        return tensor[:samples] if tensor.dim() and len(tensor) == count else tensor

    return apply_to_collection(inputs, Tensor, head)


def _not_taken(inputs: Any, reason: str) -> ValueError:
    return ValueError(
        f"the network cannot be evaluated on what was taken out of a batch, {describe_batch(inputs)} ({reason}); say "
        "what it takes with `inputs`, by name or by a function"
    )


def _is_complete(pl_module: LightningModule) -> bool:
    """Return False if the module has no parameters yet and a method that may make them."""
    late = any(is_overridden(method, pl_module) for method in ("setup", "configure_model"))
    return not late or bool(_children_with_parameters(pl_module))


def _children_with_parameters(pl_module: LightningModule) -> dict[str, nn.Module]:
    return {
        name: child
        for name, child in pl_module.named_children()
        if not isinstance(child, Metric) and any(True for _ in child.parameters())
    }
