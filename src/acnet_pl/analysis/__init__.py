"""Analyses of the article: functions from a model to numbers, and their plots."""

from acnet_pl.analysis.complexity import Complexity, complexity
from acnet_pl.analysis.divergence import Divergence, first_divergence
from acnet_pl.analysis.equivalence import Equivalence, EquivalenceMetric, compare, evaluate_pair
from acnet_pl.analysis.evaluation import accuracy
from acnet_pl.analysis.inputs import Inputs, labels_of, network_inputs
from acnet_pl.analysis.kernels import KernelMagnitude, kernel_magnitude
from acnet_pl.analysis.locations import LOCATIONS, Location, location_mask
from acnet_pl.analysis.plots import plot_confusion, plot_kernel_magnitude, plot_predictions, plot_pruning_curves
from acnet_pl.analysis.pruning import PruningCurve, prune_by_location, pruning_curve
from acnet_pl.analysis.rotation import (
    TRANSFORMS,
    RotationAccuracy,
    RotationMetric,
    flip_response,
    rotation_accuracy,
    rotation_logits,
    rotation_outputs,
)
from acnet_pl.analysis.training_cost import TrainingCost, training_cost

__all__ = [
    "LOCATIONS",
    "TRANSFORMS",
    "Complexity",
    "Divergence",
    "Equivalence",
    "EquivalenceMetric",
    "Inputs",
    "KernelMagnitude",
    "Location",
    "PruningCurve",
    "RotationAccuracy",
    "RotationMetric",
    "TrainingCost",
    "accuracy",
    "compare",
    "complexity",
    "evaluate_pair",
    "first_divergence",
    "flip_response",
    "kernel_magnitude",
    "labels_of",
    "location_mask",
    "network_inputs",
    "plot_confusion",
    "plot_kernel_magnitude",
    "plot_predictions",
    "plot_pruning_curves",
    "prune_by_location",
    "pruning_curve",
    "rotation_accuracy",
    "rotation_logits",
    "rotation_outputs",
    "training_cost",
]
