"""acnet_pl's own options of a run, without heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CALLBACKS", "RunSettings", "WandbOptions"]

CALLBACKS = {
    "checkpoint": "pytorch_lightning.callbacks.ModelCheckpoint",
    "run_checkpoint": "acnet_pl.callbacks.RunCheckpoint",
    "nonfinite": "acnet_pl.callbacks.NonFiniteCheck",
    "equivalence": "acnet_pl.callbacks.EquivalenceCheck",
    "rotation": "acnet_pl.callbacks.RotationRobustness",
    "kernels": "acnet_pl.callbacks.KernelMagnitude",
    "fuse": "acnet_pl.callbacks.FuseOnFitEnd",
    "predictions": "acnet_pl.callbacks.PredictionWriter",
}
"""The callbacks of every run, by the name that their options begin with."""


@dataclass
class RunSettings:
    """The run and its folder.

    Attributes:
        name: Name of the run; null is backbone and conv.
        runs_dir: Where runs/NAME/TIME is made.
        resume: fit: continue the newest unfinished run of this name and configuration (auto), or the one in the folder
            given.
        map_classes: validate, test and predict: give class folders the labels that their names have in the checkpoint.
        test_after_fit: After fit, validate and test the weights that were fused.
    """

    name: str | None = None
    runs_dir: str = "runs"
    resume: str | None = None
    map_classes: bool = False
    test_after_fit: bool = True


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: "offline" writes to the run's folder, for `wandb sync` later; "online" needs an account. Null is
            WANDB_MODE of the environment, else "offline" for fit and "disabled" for the others.
        project: Project of the dashboard.
        group: Runs to be compared; null is data set and backbone, so that a plain net and its ACNet pair up.
        tags: Tags of the run.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str = "acnet_pl"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
