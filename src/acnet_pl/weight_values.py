"""Check names, shapes and values of weights that a file brings, before they are loaded into a network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import nn

__all__ = ["check_names", "check_values"]

_BRANCH = re.compile(r"(?:^|\.)(?:square|horizontal|vertical|branches)[._]")
_NORM = (".running_mean", ".running_var", ".num_batches_tracked")


def check_names(network: nn.Module, tensors: Mapping[str, torch.Tensor], *, has_inputs: bool) -> None:
    """Raise ValueError, with the likely cause, if a fused network has other names or shapes than a file.

    Args:
        network: Fused network that the weights are for.
        tensors: Weights by name.
        has_inputs: Whether the file describes an input, with which the network was fused.
    """
    wanted = network.state_dict()
    missing, unknown = [*wanted.keys() - tensors.keys()], [*tensors.keys() - wanted.keys()]
    if missing or unknown:
        counts = f"of its {len(tensors)} tensors {len(unknown)} have no place{_first(unknown)}"
        counts += f", and {len(missing)} of the network's {len(wanted)} are not in it{_first(missing)}"
        raise ValueError(f"{counts}; {_cause(missing, unknown, has_inputs)}")
    other = [name for name, tensor in wanted.items() if tensors[name].shape != tensor.shape]
    if other:
        shapes = f"`{other[0]}` is {tuple(tensors[other[0]].shape)}, expected {tuple(wanted[other[0]].shape)}"
        raise ValueError(
            f"{len(other)} of its {len(wanted)} tensors have another shape: {shapes}; build the network with the sizes "
            "and the number of classes that it was trained with"
        )


def _first(names: Collection[str]) -> str:
    return f" (`{min(names)}`{', ...' * (len(names) > 1)})" if names else ""


def _cause(missing: Collection[str], unknown: Collection[str], has_inputs: bool) -> str:
    """Return the likely cause of names that do not fit, with the way out."""
    if any(_BRANCH.search(name) for name in unknown):
        return "it was written before it was fused: write fuse_model(network.eval())"
    start = min(unknown, default="").partition(".")[0]
    if start and {name.removeprefix(f"{start}.") for name in unknown} == {*missing}:
        return f"it holds the network within a module, as `{start}`: give such a module, or write that network alone"
    start = min(missing, default="").partition(".")[0]
    if start and {name.removeprefix(f"{start}.") for name in missing} == {*unknown}:
        return f"the network given holds it as `{start}`: give that part alone"
    if any(name.endswith(_NORM) for name in (*missing, *unknown)) and not has_inputs:
        return (
            "batch norms are fused in only one of the two: if the network was fused with an `example_input`, write the "
            "file by save_fused(..., inputs=example_input)"
        )
    return "it is of another architecture: give the network as it was trained, with the same options"


def check_values(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError for values that no training leaves behind; the precision may differ.

    These are integers in the place of floating-point numbers, sparse tensors, NaN, infinity and negative variances.

    Args:
        network: Network that the weights are for.
        tensors: Weights by name; those that the network does not have are passed over.
    """
    for name, tensor in network.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{name} is {tensors[name].dtype}, expected {tensor.dtype}")
        if name in tensors and tensors[name].layout is not torch.strided:
            raise ValueError(f"{name} is of layout {tensors[name].layout}, expected torch.strided: write it to_dense()")
        if name in tensors and name.endswith("running_var") and not (tensors[name] >= 0).all():
            raise ValueError(f"{name} holds negative variances or NaN; the training diverged, or the file is damaged")
    for name, _ in network.named_parameters():
        if name in tensors and not tensors[name].isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values; the training diverged, or the file is damaged")
