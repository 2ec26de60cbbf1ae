"""A command whose output nobody reads any longer finishes its work, without an error."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from acnet_pl.cli.streams import stream_to


def test_a_stream_outlives_its_reader():
    read, write = os.pipe()
    stream = stream_to(write, io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace"))
    print("é\udcff", file=stream, flush=True)
    assert os.read(read, 100) == "é\\udcff\n".encode()
    os.close(read)
    for _ in range(3):
        print("x" * 100_000, file=stream, flush=True)
    assert os.write(write, b"what libraries write past Python") > 0
    os.close(write)


def test_help_for_a_pager_that_ends_early_says_nothing():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "acnet_pl", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_unbuffered_stays_so():
    """As standard error is: a process that is killed has said what it said."""
    read, write = os.pipe()
    like = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    stream = stream_to(write, like)
    stream.write("said")
    assert os.read(read, 9) == b"said"
    for descriptor in (read, write):
        os.close(descriptor)
