"""The base class of what records or answers PyTorch's operations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DispatchMode"]


class DispatchMode(TorchDispatchMode):
    """A TorchDispatchMode whose ``__torch_dispatch__`` torch.compile leaves out, once torch.compile is in use.

    PyTorch's own imports the compiler for that at the first operation, which takes a program that compiles nothing some
    seconds.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        if "__torch_dispatch__" not in cls.__dict__:
            return
        dispatch: Callable[..., Any] = cls.__dict__["__torch_dispatch__"]
        left_out: Callable[..., Any] = _disable_dynamo(dispatch, recursive=True)

        def choose(self: DispatchMode, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return (left_out if "torch._dynamo" in sys.modules else dispatch)(self, func, types, args, kwargs)

        cls.__torch_dispatch__ = choose  # type: ignore[assignment,method-assign]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
