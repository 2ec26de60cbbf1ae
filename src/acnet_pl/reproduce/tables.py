"""Tables of a report: published numbers beside those found here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from acnet_pl.reproduce.elements import Cell, Table
from acnet_pl.reproduce.grid import Measure, Published
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.statistics import CONFIDENCE, Sample

__all__ = ["main_tables", "run_table"]

_INTERVAL = f"{CONFIDENCE:.0%} interval"


def main_tables(result: GridResult) -> Iterator[Table]:
    """Yield the article's tables with the numbers found here.

    Args:
        result: The grid.
    """
    if result.grid.layout == "variants":
        yield _variants(result)
    else:
        for measure in result.grid.measures:
            yield _pairs(result, measure)


def run_table(result: GridResult, output: Path) -> Table:
    """Return a table of all runs, with links to their folders.

    Args:
        result: The grid.
        output: The folder of the report.
    """
    measure = result.grid.measures[0]
    columns = ("run", "state", measure.title, "epochs", "s/epoch", "parameters, trained", "fused", "fusing error")
    rows = []
    for run in result.runs:
        summary = run.summary or {}
        fused, equivalence = summary.get("fused", {}), summary.get("equivalence", {})
        rows.append(
            (
                Cell(run.planned.run.name, "label", _link(run, output)),
                Cell("failed" if run.failed else run.state, "label" if run.summary else "missing"),
                _number(run.figure(measure), 100, "{:.2f}"),
                _number(summary.get("epochs"), 1, "{:.0f}"),
                _number(summary.get("seconds_per_epoch"), 1, "{:.1f}"),
                _number(fused.get("parameters_trained"), 1, "{:,.0f}"),
                _number(fused.get("parameters_fused"), 1, "{:,.0f}"),
                _number(equivalence.get("max_rel_difference"), 1, "{:.1e}"),
            )
        )
    caption = "Every run; its name leads to its folder. The fusing error is relative, on all validation images."
    return Table(caption, columns, rows, cards=True)


def _pairs(result: GridResult, measure: Measure) -> Table:
    grid = result.grid
    base, other = grid.variants[0], grid.variants[-1]
    alone = base is other
    adjusted = result.adjusted(measure)
    headings = _gain_headings(adjusted)
    groups: list[tuple[str, int]] = [("", 1), ("here", 1 if alone else 2 + len(headings))]
    columns = ["model", *([base.title] if alone else [base.title, other.title, *headings])]
    sources = [published for published in _ordered(result) if any(key[2] == measure.key for key in published.values)]
    for published in sources:
        groups.append((_source(published, result), 3))
        columns += ["plain", "ACNet", "gain of one run"]
    rows = []
    for model in grid.models:
        row = [Cell(model.title, "label")]
        for variant in (base,) if alone else (base, other):
            row.append(_mean(result.sample(model.key, variant.key, measure), result))
        if not alone:
            row += _difference(result.gain(model.key, other.key, measure), adjusted, (model.key, other.key))
        for published in sources:
            plain = published.values.get((model.key, "plain", measure.key))
            acnet = published.values.get((model.key, "acb", measure.key))
            single = "" if plain is None or acnet is None else _signed(acnet - plain)
            row += [_quiet(plain), _quiet(acnet), Cell(single, "quiet")]
        rows.append(row)
    return Table(_caption(result, measure), columns, rows, groups, cards=True)


def _variants(result: GridResult) -> Table:
    grid = result.grid
    first = grid.measures[0]
    sources = _ordered(result)
    several = len(grid.models) > 1
    has_gain = len(grid.variants) > 1 and grid.variants[0].is_plain
    has_costs = grid.costs and grid.variants[0].is_plain
    adjusted = result.adjusted(first) if has_gain else {}
    headings = _gain_headings(adjusted)
    columns = [*(["model"] if several else []), "variant"]
    groups = [("", len(columns))]
    for measure in grid.measures:
        groups.append((measure.title if sources else "", 1 + len(sources)))
        columns += ["here" if sources else measure.title, *(_source(published, result) for published in sources)]
        if has_gain and measure is first:
            groups.append((f"{first.title}, gain over plain", len(headings)))
            columns += headings
    if has_costs:
        groups.append(("training, × plain", 4))
        columns += ["parameters", "kept activations", "multiplications", "time"]
    rows = []
    for model in grid.models:
        for variant in grid.variants:
            row = [*([Cell(model.title, "label")] if several else []), Cell(variant.title, "label")]
            for measure in grid.measures:
                row.append(_mean(result.sample(model.key, variant.key, measure), result))
                row += [_quiet(source.values.get((model.key, variant.key, measure.key))) for source in sources]
                if has_gain and measure is first:
                    gain, key = result.gain(model.key, variant.key, first), (model.key, variant.key)
                    empty = [Cell("", "quiet")] * len(headings)
                    row += empty if variant.is_plain else _difference(gain, adjusted, key)
            if has_costs:
                ratios = result.time_ratios(model.key, variant.key)
                row += [_number(ratio, 1, "{:.2f}") for ratio in result.cost_ratios(model.key, variant.key)]
                row.append(_number(result.macs_ratio(model.key, variant.key), 1, "{:.2f}"))
                row.append(_number(median(ratios) if ratios else None, 1, "{:.2f}"))
            rows.append(row)
    caption = _caption(result, None)
    if not several:
        caption = f"{grid.models[0].title}. {caption}"
    if has_costs:
        caption += (
            " Time is the median over pairs on one kind of device, and worth as much as the machine was quiet; the "
            "others are counted. Kept activations are the bytes that the forward pass keeps for the backward pass."
        )
    return Table(caption, columns, rows, groups, cards=True)


def _caption(result: GridResult, measure: Measure | None) -> str:
    seeds = len(result.seeds)
    what = f"{measure.title} {result.protocol}" if measure else result.protocol.capitalize()
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return f"{what}, in percent: {spread}. Gains are differences of pairs of the same seed, in points."


def _ordered(result: GridResult) -> list[Published]:
    """Return the published figures, those for this recipe first."""
    return sorted(result.grid.published, key=lambda published: published.recipe != result.recipe)


def _source(published: Published, result: GridResult) -> str:
    return published.source if published.recipe == result.recipe else f"{published.source} (another recipe)"


def _mean(sample: Sample, result: GridResult) -> Cell:
    planned = len(result.seeds)
    if not sample.n:
        return Cell("—", "missing", note=f"0 of {planned} runs finished")
    spread = "" if sample.std is None else f" ± {sample.std:.2f}"
    short = "" if sample.n == planned else f" ({sample.n} of {planned})"
    values = ", ".join(f"seed {seed}: {value:.2f}" for seed, value in sample.values.items())
    return Cell(f"{sample.mean:.2f}{spread}{short}", note=values)


def _gain_headings(adjusted: Mapping[tuple[str, str], float | None]) -> list[str]:
    return ["gain", _INTERVAL, *(["p (Holm)"] if len(adjusted) > 1 else []), "by seed", "pairs"]


def _difference(gain: Sample, adjusted: Mapping[tuple[str, str], float | None], key: tuple[str, str]) -> list[Cell]:
    """Return the cells under `_gain_headings`; without an interval, no mean gain but the difference of each seed."""
    by_seed = Cell(", ".join(_signed(value) for value in gain.values.values()), "quiet")
    interval = gain.interval()
    p = [_probability(adjusted[key]) if key in adjusted else Cell("", "quiet")] if len(adjusted) > 1 else []
    if gain.std is None:
        return [Cell("needs 2 pairs", "missing"), Cell("", "missing"), *p, by_seed, Cell(str(gain.n))]
    if interval is None:
        mean, without = Cell(f"{_signed(gain.mean)} ± {gain.std:.2f}"), Cell("—", "missing", note="no spread")
        return [mean, without, *p, by_seed, Cell(str(gain.n))]
    is_sure = (adjusted.get(key) or 0.0) <= 1 - CONFIDENCE  # beside other gains, for all of them together
    kind = "gain" if interval[0] > 0 and is_sure else "loss" if interval[1] < 0 and is_sure else ""
    kind = kind or ("fall" if gain.mean < 0 else "")
    cells = [Cell(f"{_signed(gain.mean)} ± {gain.std:.2f}", kind)]
    return [*cells, Cell(" to ".join(map(_signed, interval))), *p, by_seed, Cell(str(gain.n))]


def _probability(p: float | None) -> Cell:
    return Cell("—", "missing") if p is None else Cell("< 0.001" if p < 0.001 else f"{p:.3f}")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _quiet(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.2f}", "quiet")


def _number(value: float | None, factor: float, form: str) -> Cell:
    return Cell("—", "missing") if value is None else Cell(form.format(factor * value))


def _link(run: RunResult, output: Path) -> str:
    return "" if run.folder is None else Path(os.path.relpath(run.folder, output)).as_posix()
