"""Tell what calling a module does: its forward and more, nothing of its own, or a call of another module alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import fx, nn

from acnet_pl.nn.surgery.decisions import variations
from acnet_pl.nn.surgery.surroundings import all_kept

__all__ = ["is_altered", "is_container", "own_call", "wrapped"]

_LIGHTNING = ("pytorch_lightning.core.module", "lightning.pytorch.core.module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def own_call(module: nn.Module) -> str:
    """Return what a call of a module does besides its forward, which torch.fx does not trace, or ""."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has a hook"
    own = type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule)
    return "it has a __call__ of its own" if own else ""


def is_altered(module: nn.Module) -> bool:
    """Return True if calling a module may do more than the forward of its class does."""
    return "forward" in vars(module) or bool(own_call(module))


def is_container(module: nn.Module) -> bool:
    """Return True for an nn.ModuleList or similar, without a forward of its own: others call its modules.

    Lightning's LightningModule defines one that only calls nn.Module's.
    """
    forward = type(module).forward
    own = forward is not nn.Module.forward and forward.__module__ not in _LIGHTNING
    return not own and "forward" not in vars(module)


def wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module to which a wrapper hands all its arguments and whose result it returns, None if that is unsure.

    The wrapper is evaluated with arguments that nothing can be computed from, on each path that its code may take.
    """
    parts = list(module.children())
    if len(parts) != 1 or is_altered(module):
        return None
    if type(module) in _PARALLEL:  # on GPUs they look at their arguments to split the batch
        return parts[0]
    paths: list[AbstractContextManager[None]] = [
        nullcontext(),
        *(variation.taken_by(module) for variation in variations(module, module)),
    ]
    return parts[0] if all(_hands_on(module, parts[0], path) for path in paths) else None


def _hands_on(module: nn.Module, part: nn.Module, path: AbstractContextManager[None]) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    given = [object() for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given += [object() for p in parameters if p.kind is p.VAR_POSITIONAL for _ in range(2)]
    named = {p.name: object() for p in parameters if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)}
    result, calls = object(), []

    def stand_in(*args: Any, **kwargs: Any) -> object:
        calls.append((args, kwargs))
        return result

    forward: Callable[..., Any] = stand_in
    try:
        with all_kept(module), path, patch.dict(vars(part), forward=forward):
            return module.forward(*given, **named) is result and calls == [(tuple(given), named)]
    except Exception:  # it looks at its arguments
        return False
