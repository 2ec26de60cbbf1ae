"""What ``make test-fast`` runs: of every test that starts no process and trains no network, the first case.

What a test costs is seen, not promised: one that takes more than `MOST_SECONDS` of the processor, or starts a process,
fails under ``--fast`` and belongs into a module that is named here.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CASES = 1
"""Cases of a parametrised test that are run."""

MOST_EXAMPLES = 100
"""Of a hypothesis test."""

MOST_SECONDS = 8.0
"""Of the processor, for one test."""

# What makes a test module dear: processes, trainings, compilations.
_DEAR = re.compile(
    r"subprocess|Popen|os\.fork|mortal|spawn|torchrun|nbclient|torch\.compile|count_all|sys\.executable|\.fit\(|\bmain\(\s*\[|write_report"
)
_DEAR_FIXTURES = {"finished", "mortal", "start", "undisturbed", "ranks", "launch", "server"}
_WORKERS = re.compile(r"num_workers=[1-9]")

_counting = [False]
_started: list[str] = []


def choose(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests that cost little, and the others."""
    cases: Counter[str] = Counter()
    dear: dict[Path, bool] = {}
    chosen, left_out = [], []
    for item in items:
        if item.path not in dear:
            text = item.path.read_text(encoding="utf-8") if "tests" in item.path.parts else ""
            dear[item.path] = bool(_DEAR.search(text))
        name = item.nodeid.partition("[")[0]
        if dear[item.path] or cases[name] >= CASES or _is_dear(item):
            left_out.append(item)
        else:
            cases[name] += 1
            chosen.append(item)
    return chosen, left_out


def _is_dear(item: pytest.Item) -> bool:
    settings = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
    if settings is not None and settings.max_examples > MOST_EXAMPLES:
        return True
    workers = getattr(item, "callspec", None) and item.callspec.params.get("workers")  # type: ignore[attr-defined]
    if workers or _WORKERS.search(inspect.getsource(getattr(item, "function", _is_dear))):
        return True
    marks = {mark.name for mark in item.iter_markers()}
    return bool(marks & {"slow", "faults", "gpu"} or _DEAR_FIXTURES.intersection(getattr(item, "fixturenames", ())))


@contextmanager
def at_little_cost(name: str) -> Iterator[None]:
    """Fail a test that takes too much of the processor, or starts a process."""
    _started.clear()
    _counting[0], began = True, time.process_time()
    try:
        yield
    finally:
        _counting[0] = False
    if (seconds := time.process_time() - began) > MOST_SECONDS:
        pytest.fail(f"{name} took {seconds:.1f} s of the processor; a test of --fast may take {MOST_SECONDS:g}")
    if _started:
        pytest.fail(f"{name} started {_started[0]}; a test of --fast may start no process")


def _audit(event: str, args: tuple[Any, ...], counting: list[bool] = _counting, started: list[str] = _started) -> None:
    if counting[0] and event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):  # also when this module is gone
        started.append(str(args[:1]))


sys.addaudithook(_audit)
