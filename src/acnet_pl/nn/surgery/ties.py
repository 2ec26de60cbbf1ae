"""Tensors that several modules share, which conversion must not separate."""

from __future__ import annotations

from torch import Tensor, nn

from acnet_pl.nn.surgery.copying import kept_values, memory_of
from acnet_pl.nn.surgery.trace import layers

__all__ = ["refuse_shared_memory", "ties"]


def ties(model: nn.Module) -> dict[nn.Module, dict[str, str]]:
    """Find modules that share a parameter or buffer with another module.

    Returns:
        By module and name of its tensor, a message that says what the tensor is tied to.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
        >>> model[1].weight = model[0].weight
        >>> list(ties(model).values())
        [{'weight': 'its weight is tied to `1.weight`'}, {'weight': 'its weight is tied to `0.weight`'}]
    """
    owners: dict[Tensor, list[tuple[nn.Module, str, str]]] = {}
    for name, module in model.named_modules():
        for own, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                owners.setdefault(tensor, []).append((module, own, f"{name}.{own}" if name else own))
    tied: dict[nn.Module, dict[str, str]] = {}
    for sharing in owners.values():
        for module, own, _ in sharing:
            for holder, _, other in sharing:
                if holder is not module:
                    tied.setdefault(module, {})[own] = f"its {own} is tied to `{other}`"
    return tied


def refuse_shared_memory(model: nn.Module) -> None:
    """Raise an error if two parameters, or a layer's and another tensor, share memory, which a copy would separate.

    Raises:
        ValueError: The message names both.
    """
    found: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.numel():
            continue
        if (other := found.setdefault(parameter.data_ptr(), name)) != name:
            raise ValueError(
                f"`{other}` and `{name}` are two parameters in the same memory, which a copy of the network would "
                "separate; tie them by using one parameter for both, as in b.weight = a.weight"
            )
    others = [*model.named_buffers(), *(("an attribute", value) for value in kept_values(model))]
    owners = {memory_of(p): f"{name}.{own}" for name, layer in layers(model) for own, p in layer.named_parameters()}
    for name, tensor in others:
        if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter) and memory_of(tensor) in owners:
            raise ValueError(
                f"`{owners[memory_of(tensor)].lstrip('.')}` shares its memory with {name}, which a copy of the network "
                "would separate; compute the other from it in the forward, or give it memory of its own"
            )
