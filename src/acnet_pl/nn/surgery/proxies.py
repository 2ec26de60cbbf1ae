"""Symbols for torch.fx that record operations in place (``x += y``) as such, which its own record as ``x + y``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.proxy import Attribute

__all__ = ["IN_PLACE", "InPlaceProxy"]

_NAMES = ("iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")

IN_PLACE: tuple[Callable[[Any, Any], Any], ...] = tuple(getattr(operator, name) for name in _NAMES)
"""Python's operations in place, such as ``operator.iadd``, which ``x += y`` calls."""


def _recorded(target: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        proxy: fx.Proxy = self.tracer.create_proxy("call_function", target, (self, other), {})
        return proxy

    return record


_METHODS = {f"__{target.__name__}__": _recorded(target) for target in IN_PLACE}


class InPlaceProxy(fx.Proxy):
    """A symbol whose operators in place are recorded, and which cannot be given data or attributes."""

    vars().update(_METHODS)

    def __getattr__(self, k: str) -> Attribute:
        return _InPlaceAttribute(self, k)

    def __str__(self) -> str:  # of the values, which an f-string asks for too
        self.tracer.create_proxy("call_function", str, (self,), {})
        return repr(self)

    def __setattr__(self, k: str, value: Any) -> None:
        if k == "data":
            raise TypeError("a symbol cannot be given other data, as `x.data = y` and `x.data += y` do")
        if k not in ("node", "tracer"):
            raise TypeError(f"a symbol cannot be given an attribute, as `x.{k} = y` does")
        super().__setattr__(k, value)


class _InPlaceAttribute(Attribute):
    vars().update(_METHODS)
