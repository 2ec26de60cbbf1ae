"""Take the network's input and the labels out of a batch of any form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["Inputs", "images_apart", "labels_of", "network_inputs", "sample_count", "tensors_of"]

Inputs = str | Callable[[Any], Any] | None
"""How to take a network's input out of a batch: the name of a part, a function of the batch, or None to find it."""

_INPUT_NAMES = ("image", "images", "img", "input", "inputs", "x", "data", "pixel_values")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes")


def network_inputs(network: nn.Module, batch: Any, inputs: Inputs = None) -> Any:
    """Return the part of a batch that a network takes as input.

    Args:
        network: Its ``forward`` says, by the names of its parameters, which parts of a batch with named parts it takes.
        batch: A tensor, a tuple or list that begins with the input, or a mapping, dataclass or named tuple.
        inputs: The name of a part of the batch, or a function from the batch to the input. None finds the input: the
            parts named as the parameters of ``forward``, or else one named "image", "input", "x" or the like; the
            first element of a tuple, or as many as ``forward`` requires.

    Returns:
        A tensor, a tuple of positional arguments or a dict of keyword arguments, as ``example_input`` of `fuse_model`.

    Raises:
        ValueError: The batch does not have the part, or no part can be told to be the input.

    Examples:
        >>> import torch
        >>> batch = {"image": torch.zeros(2, 3, 8, 8), "label": torch.tensor([0, 1])}
        >>> network_inputs(nn.Conv2d(3, 4, 3), batch).shape
        torch.Size([2, 3, 8, 8])
    """
    if isinstance(inputs, str):
        parts = _parts(batch)
        if parts is None or inputs not in parts:
            raise ValueError(f"`inputs` is {inputs!r}, but the batch is {describe_batch(batch)}")
        return _arguments(parts[inputs])
    if inputs is not None:
        return _arguments(inputs(batch), given=True)
    if (parts := _parts(batch)) is not None:
        return _named(network, parts, batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        needed = _required(network)
        if needed is not None and needed > 1:
            for candidate in (batch[0], batch):
                if isinstance(candidate, Sequence) and len(candidate) >= needed:
                    return tuple(candidate[:needed])
        first = batch[0]
        return _named(network, first, batch) if isinstance(first, Mapping) else _arguments(first)
    if isinstance(batch, Tensor):
        return batch
    raise ValueError(_unknown(batch))


def labels_of(batch: Any) -> Tensor | None:
    """Return a batch's class indices ``(N,)``: the last of two elements, or the part named "label" or the like.

    None where there are none, or where they are no class indices (masks, boxes, soft labels).
    """
    parts = _parts(batch)
    found: Any = None
    if parts is not None:
        found = next((parts[name] for name in _LABEL_NAMES if name in parts), None)
    elif isinstance(batch, Sequence) and len(batch) == 2:
        found = batch[1]
    indices = isinstance(found, Tensor) and found.dim() == 1 and not (found.is_floating_point() or found.is_complex())
    return found if indices else None


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif (parts := _parts(value)) is not None:
        for part in parts.values():
            yield from tensors_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)


def sample_count(inputs: Any) -> int:
    """Return the number of samples in a network's input: the first dimension of its first tensor, or a list's length.

    Examples:
        >>> import torch
        >>> sample_count((torch.zeros(4, 3, 8, 8), torch.zeros(4, 2)))
        4
    """
    if (images := images_apart(inputs)) is not None:
        return len(images)
    first = next(tensors_of(inputs), None)
    return 0 if first is None else len(first) if first.dim() else 1


def images_apart(inputs: Any) -> list[Tensor] | tuple[Tensor, ...] | None:
    """Return the images of a network that takes them one by one ``(C, H, W)``, as detectors do; None for others."""
    first = inputs[0] if isinstance(inputs, tuple) and inputs else None
    apart = isinstance(first, (list, tuple)) and all(isinstance(x, Tensor) and x.dim() == 3 for x in first)
    return first if apart else None


def describe_batch(batch: Any) -> str:
    """Describe the form of a batch for an error message."""
    if isinstance(batch, Tensor):
        return f"a tensor {tuple(batch.shape)} of {batch.dtype}"
    if (parts := _parts(batch)) is not None:
        return f"a {type(batch).__name__} with {', '.join(map(str, parts)) or 'nothing'}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"


def _parts(batch: Any) -> dict[Any, Any] | None:
    if isinstance(batch, Mapping):
        return dict(batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    return None


def _named(network: nn.Module, parts: Any, batch: Any) -> Any:
    parts = dict(parts)
    parameters = _parameters(network)
    taken = {name: parts[name] for name in parameters if name in parts}
    if taken and all(name in taken for name, parameter in parameters.items() if _is_required(parameter)):
        return taken
    named = [parts[name] for name in _INPUT_NAMES if name in parts]
    if len(named) == 1 and (_required(network) or 1) == 1:
        return _arguments(named[0])
    raise ValueError(_unknown(batch))


def _unknown(batch: Any) -> str:
    return (
        f"cannot tell what the network takes of a batch that is {describe_batch(batch)}; say it with `inputs`, by name "
        "(inputs='image') or by a function (inputs=lambda batch: ...)"
    )


def _arguments(value: Any, given: bool = False) -> Any:
    """Return a value as arguments; a list, or a tuple that no function returned, is one argument."""
    if isinstance(value, Tensor) or (given and isinstance(value, (tuple, dict))):
        return value
    return (value,)


def _parameters(network: nn.Module) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(network.forward).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in kinds}


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


def _required(network: nn.Module) -> int | None:
    return sum(map(_is_required, _parameters(network).values())) or None
