"""Send the gains of a grid to Weights & Biases, each with its pairs, interval and seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acnet_pl.cli.loggers import wandb_group, wandb_logger, wandb_mode, wandb_run_ends
from acnet_pl.config.own_options import WandbOptions
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.statistics import CONFIDENCE

__all__ = ["log_gains"]

_COLUMNS = ("network", "variant", "measure", "seed", "baseline, %", "variant, %", "gain, points")


def log_gains(name: str, result: GridResult, output: Path) -> None:
    """Log the gains of a grid, where its runs are logged: one run of type "summary" in each of their groups.

    The summary has of each network, variant and measure the gain, the number of pairs, the interval and Holm-adjusted
    p; a table has each seed's figures. Fewer than two pairs have no interval, and so no gain; nor have grids without
    plain networks. Logged again, it is the same run.

    Args:
        name: Name of the grid.
        result: Its runs.
        output: Folder of the report; what is logged lies in ``wandb`` below it.
    """
    groups: dict[str, tuple[PlannedRun, list[str]]] = {}
    for model in result.grid.models:
        planned = next(run.planned for run in result.runs if run.planned.run.model == model.key)
        groups.setdefault(_group(planned), (planned, []))[1].append(model.key)
    for group, (planned, models) in groups.items():
        options = WandbOptions(**planned.config["wandb"])
        mode = wandb_mode(options, "fit")
        gains = dict(_gains(result, models))
        if not gains or mode == "disabled" or planned.config["trainer"].get("logger") not in (None, True):
            continue
        folder = output / "wandb" / re.sub(r"[^\w.+-]", "_", f"{name}-{group}")
        folder.mkdir(parents=True, exist_ok=True)
        with wandb_run_ends():
            logger = wandb_logger(folder, f"{name}/gains", options, mode, group, "summary", [name])
            about = {"grid": name, "recipe": result.recipe, "protocol": result.protocol, "data": result.data}
            logger.experiment.config.update({**about, "confidence": CONFIDENCE}, allow_val_change=True)
            logger.log_table("gains", columns=list(_COLUMNS), data=list(_rows(result, models)))
            logger.experiment.summary.update(gains)


def _group(planned: PlannedRun) -> str:
    given: str | None = planned.config["wandb"]["group"]
    data = planned.config["data"]
    kind = data["class_path"].rpartition(".")[2].removesuffix("DataModule")
    return given or wandb_group((data.get("init_args") or {}).get("dataset", kind), planned.config["model"])


def _gains(result: GridResult, models: list[str]) -> Iterator[tuple[str, float]]:
    if not result.grid.variants[0].is_plain:  # a gain is one over the plain network
        return
    for measure in result.grid.measures:
        adjusted = result.adjusted(measure)
        for model, variant in _compared(result, models):
            gain = result.gain(model, variant, measure)
            if (interval := gain.interval()) is None:
                continue
            figures = {"points": gain.mean, "n": gain.n, "low": interval[0], "high": interval[1]}
            if (p := adjusted.get((model, variant))) is not None:
                figures["p_holm"] = p
            yield from ((f"gain/{model}/{variant}/{measure.key}/{key}", value) for key, value in figures.items())


def _rows(result: GridResult, models: list[str]) -> Iterator[list[Any]]:
    for measure in result.grid.measures:
        for model, variant in _compared(result, models):
            base, own = (result.sample(model, key, measure).values for key in (result.grid.variants[0].key, variant))
            gain = result.gain(model, variant, measure)
            if gain.interval() is not None:
                for seed, points in gain.values.items():
                    yield [model, variant, measure.title, seed, base[seed], own[seed], points]


def _compared(result: GridResult, models: list[str]) -> list[tuple[str, str]]:
    return [(model, variant.key) for model in models for variant in result.grid.variants[1:]]
