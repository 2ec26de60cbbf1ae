"""Check a pickle of `torch.save` before torch loads it: nothing in it may take more memory than its file has.

``torch.load(weights_only=True)`` runs no code, but it calls what allocates by number (``bytearray(3 * 2**30)``), and it
makes tensors of any size and tuples that are shared so often that to hash one never ends. Here the same program is
run with stand-ins in the place of everything that it calls.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import IO, Any, ClassVar

__all__ = ["check_pickle"]

# The operations that torch reads; any other is refused.
_OPERATIONS = {
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID", "BINPUT", "BINUNICODE"),
    *("BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE", "GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT"),
    *("MARK", "NEWFALSE", "NEWOBJ", "NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING"),
    *("STOP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}
_SIZE_ARGUMENT = {
    "torch._utils._rebuild_tensor": 2,
    "torch._utils._rebuild_tensor_v2": 2,
    "torch._utils._rebuild_tensor_v3": 2,
    "torch._utils._rebuild_qtensor": 2,
    "torch._utils._rebuild_meta_tensor_no_storage": 1,
}
_MOST_DIMENSIONS = 64
_BYTES = {
    **dict.fromkeys(("Half", "Short", "BFloat16"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
_REBUILDS = {
    *_SIZE_ARGUMENT,
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_sparse_tensor",
    "torch._tensor._rebuild_from_type_v2",
}


def check_pickle(file: IO[bytes], size: int, records: Mapping[str, int] | None = None) -> Any:
    """Raise an error if a pickle calls what could take more memory than its file, and leave the file behind its end.

    Args:
        file: Open at the beginning of the pickle.
        size: Bytes of the whole file.
        records: Bytes of the memory of tensors, by key, where the file says that apart from its pickle.

    Returns:
        What is in the pickle, with stand-ins for tensors.

    Raises:
        pickle.UnpicklingError: It does, or is malformed.
    """
    try:
        return _DryRun(file, size, records).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a malformed program may fail in any way
        raise pickle.UnpicklingError(f"it is malformed ({type(error).__name__}: {error})") from error


class _Made:
    """Stand-in for the result of a call."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage(_Made):
    """Stand-in for the memory of tensors."""

    __slots__ = ()


class _Name:
    """Stand-in for a class or function."""

    __slots__ = ("most", "name")

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most

    def __call__(self, *args: Any) -> Any:
        name = self.name
        if name in ("collections.OrderedDict", "collections.Counter"):
            if not all(type(argument) is dict for argument in args):
                raise pickle.UnpicklingError(f"it makes a {name} of something other than a dict")
            return dict(*args)
        if name in ("builtins.set", "__builtin__.set"):
            _check_keys(*args)
        elif name == "torch.Size":
            return tuple(*args)
        elif _allocates(name):
            raise pickle.UnpicklingError(f"it calls {name}, which could take any memory")
        elif name in _SIZE_ARGUMENT:
            self._check_size(args[_SIZE_ARGUMENT[name]])
        elif name == "torch._utils._rebuild_sparse_tensor":
            for argument in args[1]:
                if isinstance(argument, (tuple, list)):
                    self._check_size(argument)
        elif name == "torch._tensor._rebuild_from_type_v2":
            args[0](*args[2])
        return _Made(name)

    def _check_size(self, shape: Any) -> None:
        if len(shape) > _MOST_DIMENSIONS or not all(type(side) is int for side in shape):
            raise pickle.UnpicklingError(f"a tensor's shape is not of up to {_MOST_DIMENSIONS} integers")
        if math.prod(shape) > self.most:
            raise pickle.UnpicklingError(f"a tensor of shape {tuple(shape)} is larger than the whole file")


class _DryRun(pickle._Unpickler):
    # The C unpickler reserves as much memory as a corrupt length or memo index says; this one reads what there is.

    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {
        ord(operation.code): pickle._Unpickler.dispatch[ord(operation.code)]
        for operation in pickletools.opcodes
        if operation.name in _OPERATIONS
    }

    def __init__(self, file: IO[bytes], size: int, records: Mapping[str, int] | None) -> None:
        super().__init__(file, encoding="bytes", fix_imports=False)
        self.most, self.records = size, records

    def find_class(self, module: str, name: str) -> Any:
        return _Name(f"{module}.{name}", self.most)

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 4:
            elements = pid[4]
            if not isinstance(elements, int) or not 0 <= elements <= self.most:
                raise pickle.UnpicklingError(f"it asks for {elements!r} numbers, which its file cannot hold")
            # Not every version of torch compares them, and what lies behind a record is other memory.
            if self.records is not None and elements * _bytes_of(pid[1]) > self.records.get(str(pid[2]).lower(), 0):
                raise pickle.UnpicklingError(f"it asks for {elements} numbers of a shorter record")
        return _Storage("storage")

    def load_reduce(self: Any) -> None:
        args = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], args)

    def load_build(self: Any) -> None:
        self.stack.pop()
        if isinstance(made := self.stack[-1], _Made) and made.name.startswith("torch."):
            raise pickle.UnpicklingError(f"it sets the state of a {made.name}, which could take any memory")

    def load_setitem(self: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _check_keys([key])
        self.stack[-1][key] = value

    def load_setitems(self: Any) -> None:
        items = self.pop_mark()
        _check_keys(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _allocates(name: str) -> bool:
    """Return True for what makes memory or a copy of a size that the file says."""
    if name.startswith("torch."):
        return name.endswith(("Tensor", "Storage")) or ("._rebuild_" in name and name not in _REBUILDS)
    return name.endswith(".bytearray")


def _bytes_of(storage: _Name) -> int:
    """Return the bytes of one number in a storage of this class."""
    return _BYTES.get(storage.name.rpartition(".")[2].removesuffix("Storage"), 1)


def _called(name: Any, args: Any) -> Any:
    if not isinstance(name, _Name):
        raise pickle.UnpicklingError("it calls something that is no function")
    return name(*args)


def _check_keys(keys: Iterable[Any] = ()) -> None:
    """Raise an error for keys whose hash could take for ever."""
    if isinstance(keys, _Made):
        raise pickle.UnpicklingError("it makes a set of a tensor")
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, tuple) or not isinstance(part, Hashable) for part in parts):
            raise pickle.UnpicklingError("one of its keys is nested")
