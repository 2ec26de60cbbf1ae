"""full_precision: compute in full float32 while numbers are compared or reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn off autocast, and TF32 and bfloat16 inside float32 matmuls and convolutions, within this context."""
    backends: Any = torch.backends  # its operators are set at run time, unknown to type checkers
    with ExitStack() as restore:
        restore.enter_context(torch.autocast(device.type, enabled=False))
        with suppress(RuntimeError):  # PyTorch does not tell where operators were set one by one, as below
            restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        if hasattr(backends.cudnn, "conv"):  # one setting per operator, since PyTorch 2.9
            operators = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
            operators += [backends.mkldnn.matmul, backends.mkldnn.conv]
            for operator in operators:
                restore.callback(setattr, operator, "fp32_precision", operator.fp32_precision)
            torch.set_float32_matmul_precision("highest")
            for operator in operators:
                operator.fp32_precision = "ieee"
        else:
            restore.callback(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32)
            torch.set_float32_matmul_precision("highest")
            backends.cudnn.allow_tf32 = False
        yield
