"""What a step asks of a GPU, seen without one: on the meta device tensors have no values.

A CUDA graph holds operations on the device alone. A step that reads a value on the host, mixes devices or copies from
the host fails here as it would fail to be captured there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acnet_pl.config.files import EXPERIMENTS, content_of
from acnet_pl.graphs import Batching, DeviceImages, Momentum, NetworkTraining
from acnet_pl.modules.architecture import build_conv
from acnet_pl.nn import ACBConv, ConvBuilder


def from_file(name: str) -> ConvBuilder:
    options = content_of(EXPERIMENTS / "conv" / f"{name}.yaml")["model"]["conv"]
    return build_conv({"class_path": options} if isinstance(options, str) else options)


CONVS: dict[str, Callable[[], ConvBuilder]] = {
    path.stem: partial(from_file, path.stem) for path in sorted((EXPERIMENTS / "conv").glob("*.yaml"))
}
CONVS["at once"] = lambda: ACBConv(at_once=True)


class Mixed(TorchDispatchMode):
    """Notes operations on tensors of more than one device; a number on the host is an argument of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [part for part in tree_leaves([args, kwargs, result]) if isinstance(part, Tensor)]
        if len({tensor.device for tensor in tensors if tensor.dim()}) > 1:
            self.seen.append(str(function))
        return result


def training(conv: ConvBuilder) -> NetworkTraining:
    """A training of a small network on the meta device."""
    layers = conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    images = torch.zeros(64, 8, 8, 3, dtype=torch.uint8, device="meta")
    labels = torch.zeros(64, dtype=torch.int64, device="meta")
    steps = NetworkTraining(
        net,
        Momentum.like(optimizer),
        lambda step: 0.5**step,
        DeviceImages(images, labels, (0.5,) * 3, (0.2,) * 3),
        Batching(lambda epoch: torch.arange(64), 0, 32, 2, flip=True),
        epochs=2,
        label_smoothing=0.1,
    )
    # As on a GPU, where the schedule's factor stays on the device.
    steps.device, steps.stream = torch.device("cuda"), cast(Any, object())
    return steps


def take_step(steps: NetworkTraining) -> None:
    """Do a step, which must be of operations on the device alone."""
    with Mixed() as mixed:
        steps._step()
    assert mixed.seen == []


@pytest.mark.parametrize("conv", CONVS)
def test_a_step_is_of_operations_on_the_device_alone(conv: str) -> None:
    steps = training(CONVS[conv]())
    steps._step()  # the first may bring constants to the device
    take_step(steps)
    assert {tensor.device.type for tensor in steps._state()} == {"meta"}


@pytest.mark.parametrize(
    "read",
    [lambda x: float(x.sum()), lambda x: x + torch.ones(10), lambda x: x + torch.ones(10).to(x.device)],
    ids=["value", "devices", "copy"],
)
def test_a_step_that_needs_the_host_is_seen(read: Callable[[Tensor], Any]) -> None:
    steps = training(ACBConv())
    steps._step()
    steps.network.register_forward_hook(lambda module, inputs, output: (read(output), output)[1])
    with pytest.raises((RuntimeError, AssertionError)):
        take_step(steps)
