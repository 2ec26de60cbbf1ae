"""Cells, tables and sentences that the views of records share."""

from __future__ import annotations

from collections.abc import Sequence

from acnet_pl.reproduce.statistics import Sample
from lookup import PublishError

GAIN = ("95 % interval", "p (Holm)", "by seed")


def gain_cells(found: Sample | None, adjusted: float | None) -> list[str]:
    """A gain's cells, under its own column and those of ``GAIN``."""
    if found is None:
        return [""] * (1 + len(GAIN))
    by_seed = ", ".join(signed(value) for value in found.values.values())
    if found.std is None:
        return ["needs 2 pairs", "", "", by_seed]
    p = "—" if adjusted is None else "< 0.001" if adjusted < 0.001 else f"{adjusted:.3f}"
    return [f"{signed(found.mean)} ± {found.std:.2f}", interval_of(found), p, by_seed]


def said(found: Sample) -> str:
    """A gain in a sentence."""
    if not found.n:
        raise PublishError("no seed has a finished run of both, so there is no gain")
    return f"{signed(found.mean)} points (95 % interval {interval_of(found)}, n = {found.n} pairs)"


def interval_of(found: Sample) -> str:
    """The 95 % interval of a mean."""
    interval = found.interval()
    if interval is None:
        return "needs 2 pairs" if found.std is None else "—"
    return " to ".join(map(signed, interval))


def spread(sample: Sample) -> str:
    """Mean and standard deviation."""
    return "—" if not sample.n else f"{sample.mean:.2f}" + (f" ± {sample.std:.2f}" if sample.std is not None else "")


def signed(value: float) -> str:
    """A number with its sign."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)
