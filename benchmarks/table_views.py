"""What is written of a record: tables and figures of results/, for `publish_tables.py`.

Views of a ``reproduce`` record: ``gains`` (top-1 and the gain of each pair), ``measures`` (all measures), ``rates``
with model, variant and the FILE#GRID of the same pairs at other learning rates, ``pruning`` with ratios in percent,
``magnitude``; and in a sentence ``gain``, ``top1`` or ``correlation`` with model and variant, ``cost`` with model,
variant and which cost, and ``plan``, which says when seeds and epochs were fixed. other_views.py has those of records
of other forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean, median, stdev
from types import SimpleNamespace
from typing import Any, cast

import other_views
from acnet_pl.reproduce import TARGETS
from acnet_pl.reproduce.fixed_plan import is_amiss
from acnet_pl.reproduce.grid import Grid, load_grid
from acnet_pl.reproduce.mixture import mixed
from acnet_pl.reproduce.statistics import Sample, in_percent, paired_difference
from acnet_pl.reproduce.statistics import adjusted as adjusted_p
from acnet_pl.reproduce.statistics import correlation as correlation_of
from acnet_pl.reproduce.summary_file import checked_summary, figure_of
from lookup import PublishError, chosen
from view_cells import GAIN, gain_cells, said, signed, spread, table

Figures = Mapping[tuple[str, str], Sample]


def checked_grid(source: str, grid: Mapping[str, Any]) -> Mapping[str, Any]:
    """The grid of a record, if its figures are those of its runs."""
    for figure in grid["figures"]:
        of_runs = _figures(grid, figure["measure"]).get((figure["model"], figure["variant"]), Sample({}))
        stored = {int(seed): value for seed, value in figure["percent"]["by_seed"].items()}
        if stored.keys() != of_runs.values.keys() or any(abs(stored[n] - of_runs.values[n]) > 1e-9 for n in stored):
            raise PublishError(
                f"{source}: the figures of {figure['variant']} are {stored}, and its runs have {dict(of_runs.values)}"
            )
    return grid


def gains(grid: Mapping[str, Any]) -> str:
    """Top-1 of each variant, its gain over the baseline with interval, p and what each seed has, and what is amiss."""
    figures = _figures(grid)
    base = _base(grid, figures)
    costs = _COSTS.get(grid["name"], ()) if base == "plain" else ()
    found = {key: _gain(figures, key, base) for key in figures if base and key[1] != base and (key[0], base) in figures}
    adjusted = adjusted_p(found)
    rows = []
    for key, sample in figures.items():
        cells = gain_cells(found.get(key), adjusted.get(key)) if found else []
        row = [_title(grid, key), str(sample.n), spread(sample), *cells]
        rows.append([*row, *(_cost(grid, key, base, name) for name in costs)])
    headings = (f"gain over {_variants(grid).get(base, base)}", *GAIN) if found else ()
    remarks = list(_amiss(grid))
    listing = remarks if len(remarks) < 2 else [f"- {remark}" for remark in remarks]
    return "\n".join([table(["", "n", "top-1", *headings, *costs], rows), *([""] if remarks else []), *listing])


def measures(grid: Mapping[str, Any]) -> str:
    """All measures of each variant."""
    keys = [measure.key for measure in _grid(grid).measures]
    columns = [re.sub(r"rotation/(\w+)/top1", r"\1", key).replace("_", " ") for key in keys]
    each = [_figures(grid, key) for key in keys]
    rows = [[_title(grid, key), *(spread(figures[key]) for figures in each)] for key in each[0]]
    return table(["", *columns], rows)


def rates(grid: Mapping[str, Any], model: str, variant: str, *others: Mapping[str, Any]) -> str:
    """Top-1 at each learning rate, on the seeds that all have, and what each variant has at its best rate."""
    key = "model.optimizer.init_args.lr"
    found = {other["departures"][key][0]: _figures(other) for other in others}
    usuals = {change.split(" → ")[0] for change in found}
    if len(usuals) != 1:
        raise PublishError(f"the other records depart from {len(usuals)} usual learning rates, expected 1")
    (usual,) = usuals
    each = {change.split(" → ")[1]: figures for change, figures in found.items()} | {usual: _figures(grid)}
    keys = [(model, "plain"), (model, variant)]
    for figures, key_ in ((figures, key_) for figures in each.values() for key_ in keys):
        _sample(figures, *key_)
    seeds = set.intersection(*(set(figures[key].values) for figures in each.values() for key in keys))
    samples = {
        rate: [Sample({seed: figures[key].values[seed] for seed in sorted(seeds)}) for key in keys]
        for rate, figures in sorted(each.items(), key=lambda one: float(one[0]))
    }
    best = [max(samples, key=lambda rate: samples[rate][arm].mean) for arm in (0, 1)]
    samples[f"best of each: {best[0]}, {best[1]}"] = [samples[best[arm]][arm] for arm in (0, 1)]
    each_gain = {rate: paired_difference(*pair) for rate, pair in samples.items()}
    adjusted = adjusted_p(each_gain)
    rows = [
        [rate, str(each_gain[rate].n), spread(plain), spread(other), *gain_cells(each_gain[rate], adjusted.get(rate))]
        for rate, (plain, other) in samples.items()
    ]
    return table(["learning rate", "n", *(_title(grid, key) for key in keys), "gain over plain", *GAIN], rows)


def pruning(grid: Mapping[str, Any], percents: str) -> str:
    """Fig. 5: accuracy with weights removed, over networks and, in parentheses, over draws within a network."""
    ratios = [int(percent) / 100 for percent in percents.split(",")]
    rows = []
    for name, curves in grid.get("pruning", {}).items():
        for curve in curves:
            known = {f"{ratio:.0%}": index for index, ratio in enumerate(curve["ratios"])}
            cells = [_pruned(curve, chosen(known, f"{ratio:.0%}", "share of pruned weights")) for ratio in ratios]
            rows.append([_title(grid, tuple(name.split("/"))), curve["where"].replace("_", "-"), *cells])
    return table(["", "removed at", *(f"{ratio:.0%}" for ratio in ratios)], rows)


def magnitude(grid: Mapping[str, Any]) -> str:
    """Fig. 6: the average magnitude matrix, row by row, and the skeleton's share."""
    rows = []
    for name, found in grid.get("magnitude", {}).items():
        matrix = "; ".join(" ".join(f"{value:.3f}" for value in row) for row in found["average"])
        rows.append([_title(grid, tuple(name.split("/"))), matrix, f"{found['shares']['skeleton']:.1%}"])
    return table(["", "A, row by row", "skeleton's share"], rows)


def gain(grid: Mapping[str, Any], model: str, variant: str, base: str | None = None) -> str:
    """A gain in a sentence, over plain or another variant."""
    return said(_gain(_figures(grid), (model, variant), base or "plain"))


def top1(grid: Mapping[str, Any], model: str, variant: str) -> str:
    """An accuracy in a sentence."""
    return spread(_sample(_figures(grid), model, variant))


def correlation(grid: Mapping[str, Any], model: str, variant: str) -> str:
    """How the accuracies of pairs correlate, in a sentence."""
    figures = _figures(grid)
    found = correlation_of(_sample(figures, model, "plain"), _sample(figures, model, variant))
    if found.value is None or found.interval is None:
        return f"r = {found}"
    low, high = map(signed, found.interval)
    return f"r = {signed(found.value)} (95 % interval {low} to {high}, n = {found.n} pairs)"


def cost(grid: Mapping[str, Any], model: str, variant: str, name: str) -> str:
    """A cost of training in a sentence, relative to plain."""
    figures = _figures(grid)
    for one in ("plain", variant):
        _sample(figures, model, one)
    chosen(dict.fromkeys(("multiplications", "parameters", "time")), name, "cost")
    return _cost(grid, (model, variant), "plain", name)


def plan(grid: Mapping[str, Any], *variants: str) -> str:
    """When seeds and epochs were fixed and what of it was changed, in sentences; of some variants, or of all."""
    titles = _variants(grid) if variants else {}
    for variant in variants:
        chosen(titles, variant, "variant of the grid")
    others = {title for key, title in titles.items() if variants and key not in variants}
    said = []
    for sentence in _remarks(grid):
        named = {*re.split("; | and ", sentence.partition(": ")[0].partition(", ")[2])}
        if not named <= others or named == {""}:
            said.append(sentence)
    return " ".join(said) or "It is not recorded when seeds and epochs were fixed."


INLINE: Mapping[str, Callable[..., str]] = other_views.INLINE | {
    view.__name__: view for view in (gain, top1, correlation, cost, plan)
}
"""Views that are written in a sentence."""

VIEWS: Mapping[str, Callable[..., str]] = {**INLINE, **other_views.TABLES} | {
    view.__name__: view for view in (gains, rates, measures, pruning, magnitude)
}
GRID_VIEWS = {"gains", "rates", "measures", "pruning", "magnitude", "gain", "top1", "correlation", "cost", "plan"}
"""Views of a grid of a record, which a marker names."""
_COSTS = {"cheaper": ("multiplications", "time"), "blocks": ("parameters", "multiplications")}  # of training, by grid


def _figures(grid: Mapping[str, Any], measure: str | None = None) -> Figures:
    """The figures of the record's runs, by the rules of the report."""
    measure = measure or _grid(grid).measures[0].key
    same_images = "0 training images held out" in grid["data"]
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    for run in grid["runs"]:
        if run["summary"]:
            figure = figure_of(checked_summary(run["summary"]), measure, same_images)
            found.setdefault((run["model"], run["variant"]), {})[run["seed"]] = figure
    return {key: in_percent(figures) for key, figures in found.items()}


def _base(grid: Mapping[str, Any], figures: Figures) -> str:
    """The variant that gains are over: plain or, without runs of it, the first of the grid that has some."""
    variants = dict.fromkeys(variant for (_, variant), sample in figures.items() if sample.n)
    return next((variant for variant in ("plain", *_variants(grid), *variants) if variant in variants), "")


def _gain(figures: Figures, key: tuple[str, str], base: str) -> Sample:
    return paired_difference(_sample(figures, key[0], base), _sample(figures, *key))


def _sample(figures: Figures, model: str, variant: str) -> Sample:
    """The figures of a model and variant, if there are finished runs of it."""
    chosen(dict.fromkeys(one for one, _ in figures), model, "model with finished runs")
    variants = {own: sample for (one, own), sample in figures.items() if one == model}
    return chosen(variants, variant, f"variant of {model} with finished runs")


def _amiss(grid: Mapping[str, Any]) -> Iterator[str]:
    """What is not alike among the runs, or was not planned beforehand."""
    yield from filter(is_amiss, _remarks(grid))
    if not _remarks(grid):
        yield "The record does not say when seeds and epochs were fixed."
    stored = _lines(grid.get("mixed"))
    known = {difference.partition(":")[0] for difference in stored}
    of_runs = mixed(cast("Any", [SimpleNamespace(summary=run["summary"]) for run in grid["runs"]]))
    for difference in [*stored, *(one for one in of_runs if one.partition(":")[0] not in known)]:
        is_sentence = difference.startswith(("COPIED", "TRAINED AGAIN"))
        yield difference if is_sentence else f"The runs differ in {difference}."


def _remarks(grid: Mapping[str, Any]) -> list[str]:
    fixed = grid.get("fixed")
    return _lines([fixed] if isinstance(fixed, str) else fixed)


def _lines(sentences: list[str] | None) -> list[str]:
    """Sentences of a record, each in one line and without empty ones."""
    return [line for sentence in sentences or () if (line := " ".join(sentence.split()))]


def _cost(grid: Mapping[str, Any], key: tuple[str, str], base: str, name: str) -> str:
    """A cost of training a variant, relative to the baseline."""

    def of(variant: str) -> dict[int, dict[str, Any]]:
        runs = [run for run in grid["runs"] if (run["model"], run["variant"]) == (key[0], variant) and run["summary"]]
        return {run["seed"]: run for run in runs}

    own, plain = of(key[1]), of(base)
    pairs = [(own[seed], plain[seed]) for seed in own if seed in plain]
    if not pairs:
        return "—"
    if name == "multiplications":
        return f"{pairs[0][0]['training_macs'] / pairs[0][1]['training_macs']:.2f}"
    both = [(a["summary"], b["summary"]) for a, b in pairs]
    if name == "parameters":
        trained = [summary["fused"]["parameters_trained"] for summary in both[0]]
        return f"{trained[0] / trained[1]:.2f}"
    times = [a["training_seconds"] / b["training_seconds"] for a, b in both if _device(a) and _device(a) == _device(b)]
    return f"{median(times):.2f}" if times else "on another machine"


def _device(summary: Mapping[str, Any]) -> Any:
    return summary.get("versions", {}).get("device")


def _pruned(curve: Mapping[str, Any], index: int) -> str:
    if "by_network" not in curve:  # of an older record, with the draws of all networks together
        return f"{100 * fmean(curve['accuracies'][index]):.1f} ± {100 * stdev(curve['accuracies'][index]):.1f}"
    text = f"{100 * curve['mean'][index]:.1f}"
    text += f" ± {100 * curve['over_networks'][index]:.1f}" if curve["over_networks"] else ""
    return text + (f" ({100 * curve['over_draws'][index]:.1f})" if curve["over_draws"] else "")


def _title(grid: Mapping[str, Any], key: tuple[str, ...]) -> str:
    models = {model.key: model.title for model in _grid(grid).models}
    several = len({run["model"] for run in grid["runs"]}) > 1
    variant = _variants(grid).get(key[1], key[1])
    return f"{models.get(key[0], key[0])}, {variant}" if several else variant


def _variants(grid: Mapping[str, Any]) -> dict[str, str]:
    return {variant.key: variant.title for variant in _grid(grid).variants}


def _grid(grid: Mapping[str, Any]) -> Grid:
    chosen(TARGETS, grid["name"], "grid of `reproduce`")
    return load_grid(grid["name"])
