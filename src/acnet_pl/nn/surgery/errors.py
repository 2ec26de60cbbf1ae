"""Read from an error that ended a trace whether the code of the network may go on from there at another call."""

from __future__ import annotations

import dis
import sys
from traceback import walk_tb
from types import TracebackType

from torch import fx, nn

from acnet_pl.nn.surgery.effects import ActsOutsideError

__all__ = ["decides_on", "lacks_tried_key", "may_go_on", "raised_by_user"]


def may_go_on(error: Exception, *, tried: bool) -> bool:
    """Return True unless the code never goes on from an error, or does so on another path that is traced.

    It does not go on if it raised the error itself, or if it treated a list that it makes as a tensor.
    Whether a value requires a gradient does not change what a network computes.

    Args:
        error: The error.
        tried: Whether an attribute or argument was given another value, see `lacks_tried_key`.
    """
    text = str(error)
    made_wrong = isinstance(error, (TypeError, AttributeError)) and (
        text.endswith(("got list", "not list")) or text.startswith("'list' object has no attribute")
    )
    conditions = _conditions(error)
    on_gradient = bool(conditions) and all(node.args[1:] == ("requires_grad",) for node in conditions)
    return not (lacks_tried_key(error, tried=tried) or made_wrong or on_gradient or raised_by_user(error))


def lacks_tried_key(error: Exception, *, tried: bool) -> bool:
    """Return True for a key that a dict lacks since it is one of many that are tried.

    So it is in torchvision, whose dicts of this kind are arguments of the constructor.
    """
    last = _last(error)
    library = last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith("torchvision.")
    return isinstance(error, KeyError) and (tried or library)


def decides_on(error: Exception, symbols: set[str]) -> bool:
    """Return True if an error came from a condition on these arguments alone: its jump is inverted on another path."""
    waiting = _conditions(error)
    leaves: set[str] = set()
    while waiting:
        node = waiting.pop()
        waiting += node.all_input_nodes
        leaves |= set() if node.all_input_nodes else {node.name}
    return bool(leaves) and leaves <= symbols


def raised_by_user(error: BaseException) -> bool:
    """Return True if a ``raise`` or ``assert`` in the user's code raised an error, or a module lacks an attribute."""
    if (last := _last(error)) is None or isinstance(error, ActsOutsideError):  # which tracing alone raises
        return False
    code = last.tb_frame.f_code
    if code.co_name == "__getattr__" and code.co_filename == nn.Module.__getattr__.__code__.co_filename:
        return True
    raises = {each.offset for each in dis.get_instructions(code) if each.opname == "RAISE_VARARGS"}
    package = str(last.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return last.tb_lasti in raises and package not in {*sys.stdlib_module_names, "torch"} - {"__main__"}


def _last(error: BaseException) -> TracebackType | None:
    """Return where an error was raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


def _conditions(error: Exception) -> list[fx.Node]:
    """Return the symbols whose truth the code asked for, if that caused the error."""
    frames = [frame.f_locals["obj"] for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "to_bool"]
    return [proxy.node for proxy in frames if isinstance(proxy, fx.Proxy)]
