"""Train many small networks side by side without Lightning: on a GPU each whole step is one CUDA graph.

Small networks leave a GPU waiting for kernel launches. Here a step of training, from the choice of its images to the
optimizer's update, is captured once and replayed as one launch, on a stream of its own for each network, so that
several networks fill the device together. On a CPU the same steps run without graphs, a network per thread.

    images.py         a data set on the device
    sgd.py            the optimizer's update, with a learning rate that a graph can read from the device
    training.py       one network: its step, its graph, its state
    evaluation.py     loss and accuracies of a network
    side_by_side.py   an epoch of several networks, and how long their steps take
"""

from acnet_pl.graphs.evaluation import evaluate
from acnet_pl.graphs.images import DeviceImages
from acnet_pl.graphs.sgd import Group, Momentum
from acnet_pl.graphs.side_by_side import StepTimes, time_steps, train_epoch
from acnet_pl.graphs.training import Batching, NetworkTraining

__all__ = [
    "Batching",
    "DeviceImages",
    "Group",
    "Momentum",
    "NetworkTraining",
    "StepTimes",
    "evaluate",
    "time_steps",
    "train_epoch",
]
