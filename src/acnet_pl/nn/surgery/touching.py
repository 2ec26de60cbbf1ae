"""Record what a forward does with layers besides calling them: reading their tensors, setting their attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from acnet_pl.nn.dispatch_mode import DispatchMode
from acnet_pl.nn.surgery.copying import memory_of
from acnet_pl.nn.surgery.surroundings import settings_of
from acnet_pl.nn.surgery.trace import Layer, layers

__all__ = ["Owners"]


class Owners:
    """Finds the layer that a tensor belongs to; views and other tensors in the same memory belong to it too.

    Attributes:
        touched: Names of the layers whose tensors were read or whose attributes or modes were set so far.
        names: Those of the layers.
        asked: Names of the layers whose tensors were referred to, perhaps only for a shape or type.
        calling: Whether a layer is being called, which refers to its tensors itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.touched: set[str] = set()
        self.asked: set[str] = set()
        self.calling = False
        self.names: dict[nn.Module, str] = {layer: name for name, layer in layers(model)}
        self._inside = {inner: name for layer, name in self.names.items() for inner in layer.modules()}
        self._own: dict[nn.Module, dict[int, Tensor]] = {}
        self._owners: dict[int, set[str]] = {}
        for layer, name in self.names.items():
            tensors = [*layer.parameters(), *layer.buffers()]
            self._own[layer] = {id(tensor): tensor for tensor in tensors}
            for tensor in tensors:
                self._owners.setdefault(memory_of(tensor), set()).add(name)

    def of(self, tensor: Tensor) -> set[str]:
        """Return the names of the layers that a tensor belongs to."""
        return self._owners.get(memory_of(tensor), set())

    def use(self, values: Any) -> None:
        """Record that the tensors among the values are read."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self.touched |= self.of(value)

    def ask(self, value: Any) -> None:
        """Record that a value, if it is a tensor, is referred to."""
        if isinstance(value, Tensor):
            self.asked |= self.of(value)

    def call(self, layer: Layer) -> str:
        """Record a layer that is called with tensors other than its own, as ``torch.func.functional_call`` does.

        Returns its name.
        """
        if any(id(tensor) not in self._own[layer] for tensor in [*layer.parameters(), *layer.buffers()]):
            self.touched.add(self.names[layer])
        return self.names[layer]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record attributes that are set and, during symbolic tracing, every operation on the layers' own tensors.

        No method of nn.Module is replaced where it need not be: Python then looks at every class of modules.
        """
        with self._watching_settings(), _Reads(self):
            yield

    @contextmanager
    def watching_attributes(self) -> Iterator[None]:
        """Record layers whose attributes get a new value (``self.conv.dilation = (2, 2)``) or whose tensors are got."""
        get = nn.Module.__getattr__

        def asking(module: nn.Module, name: str) -> Any:
            value = get(module, name)
            if not self.calling:
                self.ask(value)
            return value

        with self._watching_settings(), patch.object(nn.Module, "__getattr__", asking):
            yield

    @contextmanager
    def _watching_settings(self) -> Iterator[None]:
        def noting(plain: Callable[[nn.Module, str, Any], None]) -> Callable[[nn.Module, str, Any], None]:
            def note(module: nn.Module, name: str, value: Any) -> None:
                if module in self._inside and (name != "training" or value != module.training):
                    self.touched.add(self._inside[module])
                plain(module, name, value)

            return note

        before = {layer: self._settings(layer) for layer in self.names}
        try:
            with ExitStack() as replaced:
                for kind in {type(module) for module in self._inside}:
                    replaced.enter_context(patch.object(kind, "__setattr__", noting(kind.__setattr__)))
                yield
        finally:  # in the modules' __dict__
            self.touched |= {
                self.names[layer] for layer, settings in before.items() if self._settings(layer) != settings
            }

    @staticmethod
    def _settings(layer: nn.Module) -> dict[str, Any]:
        return {**settings_of(layer), "training": None}  # a mode that is set back is noted above


class _Reads(DispatchMode):
    def __init__(self, owners: Owners) -> None:
        super().__init__()
        self.owners = owners

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.owners.use((args, kwargs))
        return func(*args, **(kwargs or {}))
