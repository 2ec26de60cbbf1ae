"""Trace: one evaluation of a network, as far as its convolutions and batch norms are concerned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from acnet_pl.nn.fusible import FusibleConv

__all__ = ["LAYERS", "OPERATION", "OUTSIDE", "Layer", "Trace", "layers", "listed"]

Layer = FusibleConv | _ConvNd | _BatchNorm
LAYERS = (FusibleConv, _ConvNd, _BatchNorm)

# What is no layer, among consumers and producers: an operation, or something beyond what was traced.
OPERATION, OUTSIDE = "<operation>", "<outside>"


@dataclass
class Trace:
    """How often each layer is called, what takes its outputs, what its inputs come from, which are read directly.

    ``course`` is "" for what the network does as it is, else says what was decided otherwise.
    """

    course: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    consumers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    producers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    read: set[str] = field(default_factory=set)

    def edge(self, producer: str, consumer: str) -> None:
        """Note that a value made by one goes to the other."""
        self.producers[consumer][producer] += 1
        self.consumers[producer][consumer] += 1


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Names and modules of the convolutions, fusible blocks and batch norms, not looking inside fusible blocks.

    A module registered under several names comes once, under the first.
    """
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, FusibleConv):
            inside.update(child for child in module.modules() if child is not module)
        if isinstance(module, LAYERS):
            yield name, module


def listed(names: Sequence[str], most: int = 5) -> str:
    """Layer names for a message, not too many."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
