"""Find modules that a call chooses among: those called now that have a rival which another call may take instead."""

from __future__ import annotations

from collections.abc import Iterator, Set

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.copying import leaves_inside
from acnet_pl.nn.surgery.functions import is_users, names_in
from acnet_pl.nn.surgery.trace import channels_of, is_layer

__all__ = ["Rivals"]

_LOOKUPS = {"getattr", "attrgetter", "get_submodule", "_modules", "__dict__", "vars"}
_LOOKUPS |= {"children", "named_children", "modules", "named_modules"}
"""Names in code that gets submodules in another way than by their names."""


class Rivals:
    """Finds what another call may take instead of modules that are called now.

    Rivals are the uncalled entries of an nn.ModuleList or nn.ModuleDict, and uncalled modules of the same role in a
    list or dict of Python, among the modules that code gets by a computed name, or beside one whose name is in the
    code. Roles are normalisation, convolution or linear layer (each by its number of channels), module with other
    parameters, and operation without parameters.

    Args:
        model: The network.
        now: Names of the modules that are called now.
        ever: Names of the modules called on any path that its code may take; None leaves out what code gets by name.
    """

    def __init__(self, model: nn.Module, now: Set[str], ever: Set[str] | None = None) -> None:
        self._names: dict[nn.Module, str] = {}  # the first of each module
        for name, module in model.named_modules():
            self._names.setdefault(module, name)
        self._now = now
        self._used = _with_parents(now)
        self._of: dict[str, str] = {}
        blocks = {inner for block in model.modules() if isinstance(block, FusibleConv) for inner in block.modules()}
        for module, name in self._names.items():
            if module in blocks:
                continue
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                self._set_against([*module.children()], self._used, any_role=True)
            elif name not in now and name in self._used:  # others call its modules: they take one, or several in a row
                entries = [*module.children()]
                called = [self._names[entry] in self._used for entry in entries]
                if not isinstance(module, nn.Sequential) or sum(called) == 1:
                    self._set_against(entries, self._used)
            if is_users(type(module)):
                for attribute, value in vars(module).items():
                    if attribute != "_modules" and isinstance(value, (list, tuple, dict)):
                        held = [one for one in leaves_inside(value) if isinstance(one, nn.Module)]
                        self._set_against([one for one in held if one in self._names], self._used)
                if ever is not None and name in now:
                    self._set_attributes_against(module, _with_parents(ever))

    def instead_of(self, name: str, *, beside: str = "") -> str:
        """Return the name of a rival of a module or of what contains it, or "".

        Args:
            name: The module.
            beside: A module that is chosen together with it where the choice contains both.
        """
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            chosen = ".".join(parts[:end])
            if chosen in self._of and not f"{beside}.".startswith(f"{chosen}."):
                return self._of[chosen]
        return ""

    def _set_against(self, entries: list[nn.Module], called: Set[str], any_role: bool = False) -> None:
        names = dict.fromkeys(self._names[entry] for entry in entries)
        modules = {self._names[entry]: entry for entry in entries}
        idle = [name for name in names if name not in called]
        for name in names:
            if name in self._used:
                rival = next((one for one in idle if any_role or _alike(modules[name], modules[one])), None)
                if rival is not None:
                    self._of.update(dict.fromkeys(self._chosen(name, modules[name]), rival))

    def _set_attributes_against(self, module: nn.Module, ever: Set[str]) -> None:
        words = names_in(module)
        children = {key: child for key, child in module.named_children() if child in self._names}
        by_lookup = bool(words & _LOOKUPS) or any(
            key not in words and self._names[child] in self._used for key, child in children.items()
        )
        named = [child for key, child in children.items() if by_lookup or key in words]
        called = [child for child in children.values() if self._names[child] in self._used]
        self._set_against(list(dict.fromkeys([*named, *called])), ever)

    def _chosen(self, name: str, module: nn.Module) -> Iterator[str]:
        """Iterate over what a choice consists of: a module that is called as a whole, or else the modules in it."""
        if name in self._now or is_layer(module):
            yield name
            return
        for child in module.children():
            if self._names[child] in self._used:
                yield from self._chosen(self._names[child], child)


def _with_parents(names: Set[str]) -> set[str]:
    """Return the names of modules and of all that contain them."""
    return {name.rsplit(".", cut)[0] if cut else name for name in names for cut in range(name.count(".") + 1)} | {""}


def _alike(one: nn.Module, other: nn.Module) -> bool:
    return _role(one) == _role(other)


def _role(module: nn.Module) -> tuple[str, int | None]:
    if isinstance(module, _BatchNorm):
        return "normalisation", module.num_features
    if is_layer(module):
        return "layer", channels_of(module)
    if "norm" in type(module).__name__.lower():
        channels = getattr(module, "num_channels", getattr(module, "num_features", None))
        return "normalisation", channels if isinstance(channels, int) else None
    return ("module" if any(True for _ in module.parameters()) else "operation"), None
