"""Training: the LightningModule, and learning-rate schedules."""

from acnet_pl.modules.classifier import ImageClassifier
from acnet_pl.modules.schedules import CosineSchedule, Schedule, StaircaseSchedule

__all__ = ["CosineSchedule", "ImageClassifier", "Schedule", "StaircaseSchedule"]
