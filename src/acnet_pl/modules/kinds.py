"""What a class path may name: the kind of thing in each place of a configuration, and where it may come from."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import CheckpointIO, LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from acnet_pl.modules.schedules import Schedule
from acnet_pl.nn import ConvBuilder
from acnet_pl.trust import TRUSTED, is_named

__all__ = ["KINDS", "check_kind", "check_passed_on", "check_place"]

KINDS: dict[str, tuple[type, ...]] = {
    "backbone": (nn.Module,),
    "conv": (ConvBuilder,),
    "optimizer": (Optimizer,),
    "schedule": (Schedule, LRScheduler),
    "data": (LightningDataModule,),
    "callbacks": (Callback,),
    "logger": (Logger,),
}
"""Base classes of what each option takes."""

_PLUGINS = (Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision, Profiler, Strategy)
_ELSEWHERE = re.compile(r"torch\.(?!(nn|optim)\.)")
_ANY_KIND = (*(kind for kinds in KINDS.values() for kind in kinds), *_PLUGINS)


def check_kind(what: str, thing: object, path: str) -> None:
    """Raise ValueError unless something is a class of the expected kind, or a function annotated to return one.

    Args:
        what: A key of `KINDS`, or any name for any of these kinds.
        thing: The class or function.
        path: Where it was found, for the message.
    """
    kinds = KINDS.get(what, _ANY_KIND)
    made = thing
    if inspect.isfunction(thing):
        try:
            made = get_type_hints(thing).get("return")
        except (NameError, TypeError, AttributeError):  # annotations that cannot be resolved promise nothing
            made = None
    if not (inspect.isclass(made) and issubclass(made, kinds)):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{path} is not a {what}: expected a {names}, or a function annotated to return one")


def check_place(what: str, found: Any, path: str) -> None:
    """Raise ValueError for what is of the right kind but makes no part of a run, in a package that files may name.

    PyTorch has functions and classes that compile and run the text they are given. Networks, optimizers and schedules
    are in `torch.nn` and `torch.optim`, and functions that build a network in torchvision and timm.

    Args:
        what: What the class path describes, for the message.
        found: The class or function.
        path: Where it was found.
    """
    package = path.partition(".")[0]
    if package not in TRUSTED or is_named(package):
        return
    if not inspect.isclass(found):
        if package not in ("torchvision", "timm") or not _builds_by_name(package, found):
            raise ValueError(
                f"the {what} {path} is a function that has no place in a run's files, which may name functions that "
                "build a certain network of torchvision or timm; do not use what comes with it"
            )
    elif any(_ELSEWHERE.match(place) for place in (path, *(f"{kind.__module__}." for kind in found.__mro__))):
        raise ValueError(
            f"the {what} {path} is not of torch.nn or torch.optim, of which files may name classes of PyTorch; if you "
            f"trust it, add --trust {package} to the command"
        )


def check_passed_on(what: str, found: Any, options: Mapping[Any, Any]) -> None:
    """Raise ValueError for options that a logger passes on to the library behind it: servers, keys, folders.

    Args:
        what: What the class path describes, for the message.
        found: The class.
        options: Its options.
    """
    if not (inspect.isclass(found) and issubclass(found, Logger)) or is_named(found.__module__.partition(".")[0]):
        return
    if unknown := [name for name in options if name not in inspect.signature(found).parameters]:
        raise ValueError(
            f"the option {unknown[0]} of the {what} {found.__name__} is passed on to the library that logs; if you "
            f"trust it, add --trust {found.__module__.partition('.')[0]} to the command"
        )


def _builds_by_name(package: str, function: Any) -> bool:
    library = importlib.import_module(f"{package}.models")
    find = library.get_model_builder if package == "torchvision" else library.model_entrypoint
    return function.__name__ in library.list_models() and find(function.__name__) is function
