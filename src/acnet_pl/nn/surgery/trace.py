"""Trace: the calls and connections of a network's layers in one evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from typing_extensions import TypeIs

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.handled import Handled

__all__ = ["OUTSIDE", "Layer", "Trace", "channels_of", "is_layer", "layers", "listed", "operation"]

Layer = FusibleConv | _ConvNd | nn.Linear | _BatchNorm

OUTSIDE = "<outside>"
"""A consumer or producer outside the traced part."""


def operation(name: str) -> str:
    """Return the name of an operation that is not a layer, as a consumer or producer."""
    return f"<{name}>"


def is_layer(module: nn.Module) -> TypeIs[Layer]:
    """Return True for convolutions, fusible blocks, linear layers and batch norms.

    A subclass of nn.Linear does not count: it may contain other layers and call them.
    """
    return isinstance(module, (FusibleConv, _ConvNd, _BatchNorm)) or type(module) is nn.Linear


def channels_of(layer: Layer) -> int:
    """Return the number of a layer's output channels."""
    if isinstance(layer, _BatchNorm):
        return layer.num_features
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@dataclass
class Trace:
    """Calls of layers, consumers of their outputs, producers of their inputs, and layers whose tensors are read.

    Attributes:
        decision: "" for the path that the network takes as it is, otherwise the decision that leads to this other path.
        calls: Number of calls of each layer.
        consumers: By producer, how often each consumer took one of its outputs.
        producers: By consumer, how often it took an output of each producer.
        inputs: By batch norm, how often its input was the concatenation along the channels of these producers' outputs.
        changed: Batch norms whose input may have been changed in place before a layer took their output.
        read: Layers whose tensors were read other than by calling them.
        asked: Layers whose tensors were referred to, perhaps only for a shape or type.
        visited: Modules of any kind that were called.
        passed: By layer, the modules that passed one of its outputs on unchanged.
        handled: The user's functions that handled layers' outputs.
    """

    decision: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    consumers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    producers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    inputs: dict[str, Counter[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(Counter))
    changed: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    visited: set[str] = field(default_factory=set)
    passed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    handled: Handled = field(default_factory=Handled)

    def edge(self, made: tuple[str, ...], consumer: str, *, norm: bool = False) -> None:
        """Record that outputs, concatenated along the channels if several, go to a consumer or batch norm."""
        if norm:
            self.inputs[consumer][made] += 1
        elif len(made) > 1:
            cat = operation("cat")
            for producer in made:
                self.edge((producer,), cat)
            made = (cat,)
        for producer in made:
            self.producers[consumer][producer] += 1
            self.consumers[producer][consumer] += 1


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Iterate over names and modules of the layers (`is_layer`), without looking inside fusible blocks.

    A module that is registered under several names comes once, under the first.
    """
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, FusibleConv):
            inside.update(child for child in module.modules() if child is not module)
        if is_layer(module):
            yield name, module


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join layer names for a message, at most ``most`` of them."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
