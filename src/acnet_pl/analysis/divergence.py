"""Find the first layer at which two networks differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.analysis.evaluation import device_of, evaluating, full_precision, own_draws, placed
from acnet_pl.nn import explicit_branches
from acnet_pl.nn.surgery.running import call

__all__ = ["Divergence", "first_divergence"]


@dataclass(frozen=True)
class Divergence:
    """Differences between the layers of two models.

    Attributes:
        layer: Name of the first layer, in order of execution, beyond the tolerance; None where there is none. The
            model as a whole is called "(model)".
        tolerance: The largest relative difference taken for rounding.
        differences: Per layer, in order of execution, max |trained − fused| / max |trained| of its output. A layer
            that is used again, such as a shared ReLU, has another entry, "relu (call 2)".
    """

    layer: str | None
    tolerance: float
    differences: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return {"layer": self.layer, "tolerance": self.tolerance, "differences": dict(self.differences)}

    def __str__(self) -> str:
        if self.layer is None:
            return f"no layer of {len(self.differences)} parts by more than {self.tolerance:g}"
        width = max(map(len, self.differences))
        lines = [
            f"  {name:{width}}  {difference:.2e}{'  <- parts here' * (name == self.layer)}"
            for name, difference in self.differences.items()
        ]
        return "\n".join([f"the models part at {self.layer!r} (relative difference of each layer's output):", *lines])


def first_divergence(trained: nn.Module, fused: nn.Module, inputs: Any, tolerance: float = 1e-4) -> Divergence:
    """Find the first layer whose output differs by more than a relative tolerance.

    Compared are the outputs of all modules that exist under the same name in both, in eval mode, as `compare`
    evaluates them. A convolution that the batch norm after it was fused into is compared with that batch norm's output.

    Args:
        trained: Any network.
        fused: The same function, fused.
        inputs: One batch: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        tolerance: The largest relative difference taken for rounding.

    Raises:
        ValueError: The models have no executed module in common.
    """
    counterparts = _layers(fused)
    expected: dict[str, Tensor] = {}
    convolved: dict[int, tuple[str, Tensor]] = {}  # by the id of a convolution's output, which is kept alive here
    differences: dict[str, float] = {}

    def remember(name: str, call: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        expected[call] = output.clone()
        if isinstance(module, nn.Conv2d):
            convolved[id(output)] = call, output
        elif isinstance(module, _BatchNorm) and not isinstance(counterparts.get(name), _BatchNorm):
            conv, _ = convolved.get(id(inputs[0]), (None, None)) if inputs else (None, None)
            if conv is not None:
                expected.pop(conv)
                if isinstance(counterparts.get(name), nn.Identity):  # elsewhere an activation may be in between
                    expected[conv] = output.clone()

    def measure(name: str, call: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if call in expected:
            differences[call] = _relative_difference(expected.pop(call), output)

    with evaluating(trained, fused), explicit_branches(trained), full_precision(device_of(trained)):
        with _hooked(_layers(trained), remember), own_draws(trained):
            call(trained, placed(trained, inputs))
        with _hooked(counterparts, measure), own_draws(fused):
            call(fused, placed(fused, inputs))
    if not differences:
        raise ValueError("the two models have no module in common; give a model and its fused copy")
    beyond = [call for call, difference in differences.items() if not difference <= tolerance]  # NaN is beyond
    return Divergence(beyond[0] if beyond else None, tolerance, differences)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name or "(model)": module for name, module in model.named_modules()}


@contextmanager
def _hooked(layers: Mapping[str, nn.Module], action: Callable[..., None]) -> Iterator[None]:
    """Call ``action(name, call, module, inputs, output)`` whenever one of the layers has computed a tensor."""
    calls: Counter[str] = Counter()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            calls[name] += 1
            if isinstance(output, Tensor):
                action(name, name if calls[name] == 1 else f"{name} (call {calls[name]})", module, inputs, output)

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _relative_difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    actual = actual.to(expected)
    difference = (expected - actual).abs().where(expected != actual, 0).max()
    scale = expected.abs().where(~expected.isinf(), 0).max()
    return float(torch.where(difference == 0, difference, difference / scale))
