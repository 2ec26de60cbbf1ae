"""Options whose value is a class, and the classes that they can name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from acnet_pl.config.discovery import installed, modules
from acnet_pl.config.signatures import Definition, class_names, definition, exported

__all__ = ["CALLBACK", "PASSED", "SLOTS", "choices", "offered", "resolve"]

SLOTS = {
    "data": "data module",
    "model.backbone": "backbone",
    "model.conv": "conv builder",
    "model.optimizer": "optimizer",
    "model.schedule": "schedule",
}
"""Options whose value is a class, and what such a class is called."""

PASSED = {
    "data": (),
    "model.backbone": ("conv", "num_classes"),
    "model.conv": (),
    "model.optimizer": ("params",),
    "model.schedule": ("optimizer",),
}
"""Parameters of each slot's class that the package itself passes, so that no configuration gives them."""

CALLBACK = "trainer.callbacks"
"""Option whose value is a list of classes."""

# For each such option: the folder of this package's classes, their base, and the entry points of other packages.
_KINDS = {
    "data": ("data", "LightningDataModule", "data"),
    "model.backbone": ("backbones", "Module", "backbones"),
    "model.conv": ("nn", "ConvBuilder", "blocks"),
    CALLBACK: ("callbacks", "Callback", "callbacks"),
}
_LIBRARY = {"model.optimizer": "torch.optim", "model.schedule": "torch.optim.lr_scheduler"}
# These take functions or other schedulers, which no configuration can give.
_NEED_PYTHON = {"ChainedScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR"}

# Lightning's class has the parameter `monitor`; torch's does not.
_WITH_MONITOR = {"ReduceLROnPlateau": "pytorch_lightning.cli.ReduceLROnPlateau"}


@cache
def choices(slot: str) -> dict[str, str]:
    """Return the classes that an option can name without their module, as ``{name: dotted path}``.

    Args:
        slot: One of `SLOTS`, or `CALLBACK`.
    """
    if slot == "model.optimizer":
        module = _LIBRARY[slot]
        found = {name: f"{module}.{name}" for name in exported(module) if name != "Optimizer"}
        return {name: path for name, path in found.items() if _class(path)}
    if slot == "model.schedule":
        own = _concrete("acnet_pl.modules", "Schedule")
        module = _LIBRARY[slot]
        theirs = {name for name, bases in class_names(module).items() if "LRScheduler" in bases and name[0] != "_"}
        return {**own, **{name: f"{module}.{name}" for name in sorted(theirs - _NEED_PYTHON)}, **_WITH_MONITOR}
    folder, base, kind = _KINDS[slot]
    return dict(sorted({**_concrete(f"acnet_pl.{folder}", base), **_unlisted(folder, base), **installed(kind)}.items()))


def offered() -> dict[str, str]:
    """Return the classes that other packages offer by entry points, as ``{name: dotted path}``."""
    return {name: path for _, _, kind in _KINDS.values() for name, path in installed(kind).items()}


def resolve(slot: str, name: str) -> str | None:
    """Return the dotted path of a class that an option names; None if there is certainly none.

    Args:
        slot: One of `SLOTS`.
        name: A class name, with or without its module.
    """
    if "." not in name:
        library = f"{_LIBRARY.get(slot)}.{name}"
        return choices(slot).get(name) or (library if _class(library) else None)
    package = name.partition(".")[0]
    # Names in other packages are left to the parser: a package may create them when it is imported.
    return name if package not in ("acnet_pl", "torch") or _class(name) or definition(name) else None


def _concrete(package: str, base: str) -> dict[str, str]:
    """Return a package's exported concrete classes that derive from ``base``, as ``{name: dotted path}``."""
    found = {}
    for name in sorted(exported(package)):
        defined = _class(f"{package}.{name}")
        if defined is not None and base in _bases(defined) and not _abstract(defined):
            found[name] = f"{package}.{name}"
    return found


def _unlisted(folder: str, base: str) -> dict[str, str]:
    """Return the same as `_concrete` for those modules of a folder from which its ``__init__`` imports nothing."""
    listed = set(_imported(f"acnet_pl.{folder}"))
    return {
        name: path
        for module in modules(folder).values()
        if module not in listed
        for name, path in _concrete(module, base).items()
    }


def _imported(package: str) -> Iterator[str]:
    """Yield the module that defines each name exported by a package."""
    for name in exported(package):
        if (found := definition(f"{package}.{name}")) is not None:
            yield found.module


def _class(path: str) -> Definition | None:
    found = definition(path)
    return found if found is not None and isinstance(found.node, ast.ClassDef) else None


def _above(defined: Definition) -> list[Definition]:
    """Return the direct bases whose source can be found."""
    assert isinstance(defined.node, ast.ClassDef)
    found = [_class(f"{defined.module}.{ast.unparse(base)}") for base in defined.node.bases]
    return [base for base in found if base is not None]


def _bases(defined: Definition) -> set[str]:
    """Return the names of all bases, without those above a base whose source cannot be found."""
    assert isinstance(defined.node, ast.ClassDef)
    own = {ast.unparse(base).rpartition(".")[2] for base in defined.node.bases}
    return own.union(*(_bases(base) for base in _above(defined)))


def _abstract(defined: Definition) -> set[str]:
    """Return the names of a class's methods that are still abstract."""
    assert isinstance(defined.node, ast.ClassDef)
    left: set[str] = set()
    for base in reversed(_above(defined)):
        left |= _abstract(base)
    for node in defined.node.body:
        if isinstance(node, ast.FunctionDef):
            is_abstract = any("abstractmethod" in ast.unparse(decorator) for decorator in node.decorator_list)
            left = left | {node.name} if is_abstract else left - {node.name}
        elif isinstance(node, ast.Assign):  # an abstract property is given its value
            left = left - {target.id for target in node.targets if isinstance(target, ast.Name)}
    return left
