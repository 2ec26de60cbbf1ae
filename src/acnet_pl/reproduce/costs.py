"""Compare each variant's gain with its training cost."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from acnet_pl.reproduce.plots import Chart, Series, line_chart
from acnet_pl.reproduce.results import GridResult

__all__ = ["deployed", "gain_over_cost"]


def gain_over_cost(result: GridResult) -> Iterator[Chart]:
    """Draw one chart for each model and kind of cost: a point for each variant with two pairs, and its interval."""
    measure = result.grid.measures[0]
    for model in result.grid.models:
        for label in ("multiplications (× plain)", "kept activations (× plain)", "time (× plain)"):
            series = [Series("plain", 0, [(1.0, 0.0)])]
            for style, variant in enumerate(result.grid.variants[1:], 1):
                gain = result.gain(model.key, variant.key, measure)
                interval, cost = gain.interval(), _cost(result, model.key, variant.key, label)
                if gain.n < 2 or cost is None:
                    continue
                series.append(Series(variant.title, style, [(cost, gain.mean)]))
                series.append(Series("", style, [(cost, value) for value in interval or ()], faint=True))
            if len(series) > 1:
                yield line_chart(series, model.title, label, f"gain in {measure.title} (points)")


def deployed(result: GridResult) -> Iterator[str]:
    """Yield a sentence for each model on whether its variants' finished runs fuse to one structure."""
    for model in result.grid.models:
        runs = [run for variant in result.grid.variants for run in result.of(model.key, variant.key)]
        fused = [(run.summary or {}).get("fused", {}).get("parameters_fused") for run in runs]
        counts = sorted({int(count) for count in fused if count})
        if counts:
            one = "all variants deploy to one structure, of" if len(counts) == 1 else "variants deploy to several, of"
            yield f"{model.title}: {one} {', '.join(f'{count:,}' for count in counts)} parameters."


def _cost(result: GridResult, model: str, variant: str, label: str) -> float | None:
    if label.startswith("time"):
        ratios = result.time_ratios(model, variant)
        return median(ratios) if ratios else None
    if label.startswith("kept"):
        return result.cost_ratios(model, variant)[1]
    return result.macs_ratio(model, variant)
