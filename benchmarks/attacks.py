"""Run the attempts to break a run, its files and its machine, and count how many were held.

    python benchmarks/attacks.py            # the short form of each
    python benchmarks/attacks.py --long     # with those marked faults, which take an hour
    python benchmarks/publish_tables.py     # write the figures into docs/reliability.md

An attempt is a case of a test, or an example of hypothesis. The record is results/attacks.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from record import write_record

ROOT = Path(__file__).parent.parent
# By the row of the table in docs/reliability.md: modules, or tests of a module whose name begins so.
ROWS = {
    "killed": ["faults/test_killed_runs.py"],
    "told": ["faults/test_going_on.py::test_sigterm", "faults/test_preempted.py"],
    "found": ["faults/test_going_on.py", "cli/test_resume.py"],
    "disk": ["faults/test_full_disk.py"],
    "processes": ["faults/test_two_processes.py", "faults/test_fresh_store.py"],
    "nonfinite": ["callbacks/test_nonfinite_check.py"],
    "code": [
        "cli/test_trust.py",
        "callbacks/test_best_checkpoints.py",
        "data/test_safe_pickle.py",
        "modules/test_architecture.py",
    ],
    "damaged": ["faults/test_damaged_configs.py", "test_checkpoint.py", "test_deploy.py", "data/test_cifar.py"],
}


@dataclass
class Count:
    """Attempts of a row.

    Attributes:
        tests: Cases of tests.
        attempts: These, with each example of hypothesis as one.
        held: Attempts of tests that passed.
        skipped: Cases that this machine cannot run.
    """

    tests: int = 0
    attempts: int = 0
    held: int = 0
    skipped: int = 0


class Counting:
    """A pytest plugin that counts by row."""

    def __init__(self) -> None:
        self.counts = {row: Count() for row in ROWS}
        self._examples = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        """Count the examples of a hypothesis test."""
        self._examples = 0
        hypothesis = getattr(item.obj, "hypothesis", None)
        if hypothesis is None:
            return (yield)
        tested = hypothesis.inner_test

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._examples += 1
            return tested(*args, **kwargs)

        hypothesis.inner_test = counted
        try:
            return (yield)
        finally:
            hypothesis.inner_test = tested

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a case once, by its call or by what kept it from being called."""
        if report.when != "call" and report.passed:
            return
        count = self.counts[_row(report.nodeid)]
        if report.skipped:
            count.skipped += 1
            return
        nested = sum(value for name, value in report.user_properties if name == "attempts")
        attempts = max(1, self._examples, nested)
        count.tests += 1
        count.attempts += attempts
        count.held += attempts if report.passed else 0
        if report.failed:
            print(f"not held: {report.nodeid}", file=sys.stderr)


def _row(nodeid: str) -> str:
    return next(row for row, starts in ROWS.items() if nodeid.startswith(tuple(f"tests/{start}" for start in starts)))


def main() -> int:
    """Run, write the record and print the counts; 1 where an attempt was not held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="also run the tests marked faults")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "attacks.json")
    options = parser.parse_args()
    counting = Counting()
    modules = dict.fromkeys(start.partition("::")[0] for starts in ROWS.values() for start in starts)
    chosen = "not slow" if options.long else "not slow and not faults"
    arguments = ["-q", "-p", "no:cacheprovider", "-m", chosen, "--rootdir", str(ROOT)]
    pytest.main([*arguments, *(str(ROOT / "tests" / module) for module in modules)], plugins=[counting])
    write_record(options.out, {"rows": {row: asdict(count) for row, count in counting.counts.items()}})
    for row, count in counting.counts.items():
        print(f"{row:10} {count.held} of {count.attempts} attempts held, in {count.tests} tests")
    return int(any(count.held < count.attempts for count in counting.counts.values()))


if __name__ == "__main__":
    sys.exit(main())
