"""Lightning callbacks: each calls nn and analysis at the right moment and logs the result."""

from acnet_pl.callbacks.confusion import ConfusionMatrix
from acnet_pl.callbacks.display import ConvSummary, ProgressBar
from acnet_pl.callbacks.equivalence import EquivalenceCheck, EquivalenceError
from acnet_pl.callbacks.fuse import FusedNetwork, FuseOnFitEnd
from acnet_pl.callbacks.keep_fused import KeepFused
from acnet_pl.callbacks.kernels import KernelMagnitude
from acnet_pl.callbacks.late_fuse import LateFold as LateFold
from acnet_pl.callbacks.late_fuse import LateFuse
from acnet_pl.callbacks.learning_rate import LearningRate
from acnet_pl.callbacks.nonfinite import NonFiniteCheck, NonFiniteLossError
from acnet_pl.callbacks.predictions import PredictionWriter
from acnet_pl.callbacks.preprocessing import Preprocessing
from acnet_pl.callbacks.rotation import RotationRobustness
from acnet_pl.callbacks.run_checkpoint import RunCheckpoint
from acnet_pl.callbacks.timing import EpochTimer
from acnet_pl.quiet import keep_quiet

keep_quiet()

__all__ = [
    "ConfusionMatrix",
    "ConvSummary",
    "EpochTimer",
    "EquivalenceCheck",
    "EquivalenceError",
    "FuseOnFitEnd",
    "FusedNetwork",
    "KeepFused",
    "KernelMagnitude",
    "LateFuse",
    "LearningRate",
    "NonFiniteCheck",
    "NonFiniteLossError",
    "PredictionWriter",
    "Preprocessing",
    "ProgressBar",
    "RotationRobustness",
    "RunCheckpoint",
]
