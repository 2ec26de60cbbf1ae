"""Unpickle plain containers and uint8 arrays without calling anything."""

import io
import math
import pickle
import struct
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["load_pickle"]


def load_pickle(content: bytes) -> Any:
    """Unpickle plain containers, numbers, strings, and a uint8 array or a dict of them; refuse everything else.

    A pickle is a program that may import and call anything. Here the few names that a uint8 array needs are bound to
    inert stand-ins, so that not even NumPy's own constructors run on what the file says; any other name is refused
    before it is imported. Strings of Python 2 are read as latin-1.

    Raises:
        pickle.UnpicklingError: The pickle asks for anything else, or is malformed.

    Examples:
        >>> load_pickle(pickle.dumps({"data": np.arange(3, dtype=np.uint8)}))
        {'data': array([0, 1, 2], dtype=uint8)}
        >>> load_pickle(pickle.dumps(print))
        Traceback (most recent call last):
        _pickle.UnpicklingError: it asks for `builtins.print`, which is not data
    """
    try:
        return _with_arrays(_Unpickler(io.BytesIO(content), encoding="latin1").load())
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a malformed program may fail in any way
        raise pickle.UnpicklingError(f"it is malformed ({type(error).__name__}: {error})") from error


class _Inert:
    """Stand-in without ``__dict__``, so that no pickle sets attributes. Every subclass must have ``__slots__``, too."""

    __slots__ = ()


class _ArrayName(_Inert):
    """Stand-in for the class numpy.ndarray, which pickles only pass to ``_reconstruct``."""

    __slots__ = ()


class _Array(_Inert):
    """Array that is being unpickled."""

    __slots__ = ("value",)

    def __init__(self, value: npt.NDArray[np.uint8] | None = None) -> None:
        self.value = value

    def __setstate__(self, state: tuple[int, tuple[int, ...], Any, bool, bytes]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _uint8_array(content, dtype, shape, "F" if fortran else "C")


class _DType(_Inert):
    """Stand-in for numpy.dtype("u1")."""

    __slots__ = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Ignore byte order, fields and flags, which have no meaning for uint8."""


class _Reconstruct(_Inert):
    """Stand-in for numpy._core.multiarray._reconstruct, which makes an array that its state fills."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        if not isinstance(kind, _ArrayName):
            raise pickle.UnpicklingError("it builds something other than a plain array")
        return _Array()


class _FromBuffer(_Inert):
    """Stand-in for numpy._core.numeric._frombuffer, which makes the arrays of pickle protocol 5."""

    __slots__ = ()

    def __call__(self, content: bytes, dtype: object, shape: tuple[int, ...], order: str) -> _Array:
        return _Array(_uint8_array(content, dtype, shape, order))


class _MakeDType(_Inert):
    """Stand-in for numpy.dtype, for uint8 only."""

    __slots__ = ()

    def __call__(self, code: object, align: object = False, copy: object = False) -> _DType:
        if code not in ("u1", "|u1", b"u1", b"|u1"):
            raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}; images are uint8")
        return _DType()


class _EncodeLatin1(_Inert):
    """Stand-in for _codecs.encode, by which Python 3 writes bytes in protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it holds bytes in the encoding {encoding!r} instead of 'latin1'")
        return text.encode("latin1")


_NAMES: dict[tuple[str, str], _Inert] = {
    ("numpy", "ndarray"): _ArrayName(),
    ("numpy", "dtype"): _MakeDType(),
    ("_codecs", "encode"): _EncodeLatin1(),
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Reconstruct()
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()


class _Unpickler(pickle._Unpickler):
    # The C unpickler reserves as much memory as a corrupt length or memo index says; this one reads what there is.

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for `{module}.{name}`, which is not data") from None

    def load_bytearray8(self: Any) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _uint8_array(content: object, dtype: object, shape: object, order: str) -> npt.NDArray[np.uint8]:
    if isinstance(content, str):
        content = content.encode("latin1")  # a string of Python 2
    if not isinstance(dtype, _DType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("it holds an array of something other than uint8")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"it holds an array of shape {shape!r}")
    if len(content) != math.prod(shape):
        raise pickle.UnpicklingError(f"it holds {len(content)} bytes for an array of shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if order == "F" else "C").copy()


def _with_arrays(value: Any) -> Any:
    """Put the finished arrays in the place of their stand-ins: the value itself, or the values of a dict."""
    if type(value) is dict:
        return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
    return value.value if isinstance(value, _Array) else value
