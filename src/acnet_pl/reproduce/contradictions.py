"""Compare what a finished run's summary says with the planned run that it would stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.settings import Settings, differences, settings_of

__all__ = ["confirmed", "contradictions"]

_NETWORK = ("model.conv", "model.backbone")
_IMAGES = 3  # test images that rounding in float32 may turn, trained against fused
_FLOAT32 = 1e-6
_OTHER_PRECISION = 0.005  # accuracies in the precision of the training, as earlier versions wrote


def contradictions(planned: PlannedRun, summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, how a summary contradicts a planned run or itself.

    Args:
        planned: The run.
        summary: Result of `checked_summary`.
    """
    for name, (old, new) in differences(_network(summary), planned.settings).items():
        yield f"{name} {old} instead of {new}"
    epochs = summary.get("epochs")
    if epochs is not None and (epochs > planned.epochs or (epochs < planned.epochs and not _may_end_early(planned))):
        yield f"{epochs:g} epochs instead of {planned.epochs}"
    yield from _unequal_accuracies(summary, planned.validates_on_test_images)


def confirmed(planned: PlannedRun, summary: Mapping[str, Any]) -> set[str]:
    """Return the options of the network, short, whose planned value is the one that a summary names.

    A command of an earlier version need not give them: its defaults were others.
    """
    made = _network(summary)
    alike = {name for name in made if name in planned.settings} - {*differences(made, planned.settings)}
    return {name.replace(".init_args", "") for name in alike}


def _network(summary: Mapping[str, Any]) -> Settings:
    model = {name: summary[name] for name in ("conv", "backbone") if isinstance(summary.get(name), Mapping)}
    return {name: value for name, value in settings_of({"model": model}).items() if name.startswith(_NETWORK)}


def _may_end_early(planned: PlannedRun) -> bool:
    settings: Settings = planned.settings
    limits = settings.get("trainer.max_time") or (settings.get("trainer.max_steps") or -1) >= 0
    callbacks = {name for part in settings.get("trainer.callbacks") or () for name in part}
    return bool(limits or callbacks - {"LateFuse"})


def _unequal_accuracies(summary: Mapping[str, Any], validates_on_test_images: bool) -> Iterator[str]:
    """Compare the fused network's accuracy with what else the summary says of it: a network has one."""
    rotation = summary.get("rotation", {})
    rounding = _IMAGES / (rotation.get("samples") or 1) + (0 if "evaluated" in summary else _OTHER_PRECISION)
    others = [("metrics", "test/top1", "top1", rounding), ("metrics", "test/top5", "top5", rounding)]
    others += [("metrics", f"rotation/original/{name}", name, _FLOAT32) for name in ("top1", "top5")]
    if validates_on_test_images:
        others.append(("equivalence", "fused_accuracy", "top1", rounding))
    for part, other, name, allowed in others:
        fused, value = rotation.get(f"original/{name}"), summary.get(part, {}).get(other)
        if fused is not None and value is not None and abs(value - fused) > allowed:
            yield f"{part}/{other} {value:.4f} beside rotation/original/{name} {fused:.4f}"
