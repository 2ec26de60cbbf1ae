"""Lightning callbacks: thin; they call nn and analysis at the right moment and log what comes out."""

from acnet_pl.callbacks.display import ConvSummary, ProgressBar
from acnet_pl.callbacks.equivalence import EquivalenceCheck, EquivalenceError
from acnet_pl.callbacks.fuse import FusedNetwork, FuseOnFitEnd
from acnet_pl.callbacks.predictions import PredictionWriter
from acnet_pl.callbacks.rotation import RotationRobustness
from acnet_pl.callbacks.timing import EpochTimer

__all__ = [
    "ConvSummary",
    "EpochTimer",
    "EquivalenceCheck",
    "EquivalenceError",
    "FuseOnFitEnd",
    "FusedNetwork",
    "PredictionWriter",
    "ProgressBar",
    "RotationRobustness",
]
