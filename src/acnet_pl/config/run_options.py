"""The options of a run, for `fit`, `validate`, `test` and `predict`: Lightning's, and acnet_pl's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import acnet_pl.data  # noqa: F401  (short names of data modules are known once they are imported)
from acnet_pl.callbacks import (
    EquivalenceCheck,
    FuseOnFitEnd,
    KernelMagnitude,
    NonFiniteCheck,
    PredictionWriter,
    RotationRobustness,
    RunCheckpoint,
)

__all__ = ["CALLBACKS", "RunOptions", "WandbOptions"]

CALLBACKS = {
    "checkpoint": ModelCheckpoint,
    "run_checkpoint": RunCheckpoint,
    "nonfinite": NonFiniteCheck,
    "equivalence": EquivalenceCheck,
    "rotation": RotationRobustness,
    "kernels": KernelMagnitude,
    "fuse": FuseOnFitEnd,
    "predictions": PredictionWriter,
}
"""The callbacks of every run, by the name that their options begin with."""


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: "offline" writes to the run's folder, for `wandb sync` later; "online" needs an account. Null is
            WANDB_MODE of the environment, else "offline".
        project: Project of the dashboard.
        group: Runs to be compared; null is data set and backbone, so that a plain net and its ACNet pair up.
        tags: Tags of the run.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str = "acnet_pl"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


class RunOptions(LightningCLI):
    """Lightning's command line with acnet_pl's options added."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and name, Weights & Biases, the callbacks; link the number of classes."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; default: backbone and conv."
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where runs/NAME/TIME is made.")
        parser.add_class_arguments(WandbOptions, "wandb")
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults(
            {
                "checkpoint.filename": "epoch={epoch}-step={step}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,  # a resumed run writes the same file again
            }
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="fit: go on with the newest unfinished run of this name and configuration (auto), or with that in the "
            "folder given.",
        )
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="After fit, validate and test what was folded."
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
