"""load_pickle: reads what every Python and NumPy writes for a uint8 array, and runs nothing."""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from acnet_pl.data.safe_pickle import load_pickle


@settings(deadline=None, derandomize=True)
@given(
    st_numpy.arrays(np.uint8, st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=5)),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
    st.sampled_from(["C", "F", "sliced", "read-only"]),
)
def test_arrays_survive_every_protocol(array: Any, protocol: int, memory: str) -> None:
    if memory == "F":
        array = np.asfortranarray(array)
    elif memory == "sliced" and array.ndim:
        array = array[::2]
    elif memory == "read-only":
        array.flags.writeable = False
    got = load_pickle(pickle.dumps({"data": array, "labels": [1, 2], "names": ("ä", b"\xff")}, protocol))
    assert got["labels"] == [1, 2]
    assert got["names"] == ("ä", b"\xff")
    np.testing.assert_array_equal(got["data"], array)
    assert got["data"].dtype == np.uint8
    got["data"][...] = 0  # is writable, and nobody else's memory


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_old_and_new_numpy(core: bytes, protocol: int) -> None:
    content = pickle.dumps(np.arange(6, dtype=np.uint8), protocol)
    if protocol == 2:
        content = content.replace(b"numpy._core", core).replace(b"numpy.core", core)
    else:  # strings carry their lengths
        for module in (b"multiarray", b"numeric"):
            for written in (b"numpy._core", b"numpy.core"):
                name, new = written + b"." + module, core + b"." + module
                content = content.replace(bytes([len(name)]) + name, bytes([len(new)]) + new)
        start = content.index(b"\x95")  # the frame's length is no longer right
        content = content[:start] + content[start + 9 :]
    assert core in content
    np.testing.assert_array_equal(load_pickle(content), np.arange(6))


class Malice:
    """Writes a file when unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", ["os.system", "eval", "exec", "os.mkdir", "subprocess.run", "importlib.import_module"])
def test_nothing_is_executed(protocol: int, call: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "module_with_side_effect.py").write_text(f"open({str(mark)!r}, 'w').close()")
    malice = {
        "os.system": Malice(os.system, f"touch {mark}"),
        "eval": Malice(eval, f"open({str(mark)!r}, 'w').close()"),
        "exec": Malice(exec, f"open({str(mark)!r}, 'w').close()"),
        "os.mkdir": Malice(os.mkdir, str(mark)),
        "subprocess.run": Malice(subprocess.run, ["touch", str(mark)]),
        "importlib.import_module": Malice(importlib.import_module, "module_with_side_effect"),
    }[call]
    content = pickle.dumps({"data": np.zeros(3, np.uint8), "labels": [malice]}, protocol)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    try:
        with pytest.raises(pickle.UnpicklingError, match=r"it asks for `.*`, which is not data"):
            load_pickle(content)
        assert not mark.exists()
        pickle.loads(content)  # the very same bytes do harm to whoever trusts them
        assert mark.exists()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("module_with_side_effect", None)


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(a=1),
        torch.zeros(2),
        np.float64(1),
        np.zeros(3, np.float32),
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "u1")]),
        np.zeros((2, 2), np.uint8).view(np.matrix),
        bytearray,
        print,
        Path("a"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_everything_else_is_refused(value: object, protocol: int) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"not a pickle",
        pickle.PROTO + b"\x09.",
        b"\x80\x02r\xff\xff\xff\xff.",  # a memo index that would reserve 64 GiB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes longer than there is memory
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x3f.",  # likewise, a bytearray
        b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",  # sets an attribute of what a name is bound to
        b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00aK\x01s\x86b.",  # likewise, a slot
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # makes an instance without calling
        b"\x80\x02\x82\x01.",  # a name from copyreg's registry
        b"Pid\n.",  # a persistent id
        b"}" * 100_000,
    ],
)
def test_malformed_programs_are_refused(program: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(program)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_mutated_pickles_are_read_or_refused(protocol: int, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"data": np.arange(40, dtype=np.uint8).reshape(5, 8), "labels": [0, 1]}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(pickle.UnpicklingError):
        load_pickle(bytes(content))
