"""Training: the LightningModule, and learning-rate schedules."""

from acnet_pl.modules.classifier import ImageClassifier
from acnet_pl.modules.schedules import CosineSchedule, Schedule, StaircaseSchedule
from acnet_pl.modules.sync_norms import NormSync
from acnet_pl.quiet import keep_quiet

keep_quiet()

__all__ = ["CosineSchedule", "ImageClassifier", "NormSync", "Schedule", "StaircaseSchedule"]
