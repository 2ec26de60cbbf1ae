"""Files of fused networks: weights in safetensors together with what is needed to build the network again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from acnet_pl.atomic import atomic_path
from acnet_pl.image_preparation import check_preparation
from acnet_pl.modules.architecture import build_network, describe
from acnet_pl.modules.budget import built_within
from acnet_pl.nn import FusibleConv, fuse_model
from acnet_pl.nn.surgery.copying import deep_copy
from acnet_pl.nn.surgery.trace import listed
from acnet_pl.regular_files import check_regular
from acnet_pl.weight_values import check_names, check_values

__all__ = ["describe_inputs", "example_inputs", "fused_info", "is_described", "load_fused", "save_fused"]

FORMAT = "acnet_pl.fused/1"
_FILE = "fused.safetensors"  # in a run's folder
_MOST_NUMBERS = 2**28  # a gigabyte of float32
_MOST_DIMENSIONS = 64  # that torch has
_ARCHITECTURE = {"backbone", "conv", "num_classes"}


def save_fused(
    network: nn.Module,
    path: str | Path,
    info: Mapping[str, Any] | None = None,
    *,
    backbone: Any = None,
    conv: Any = None,
    num_classes: int | None = None,
    inputs: Any = None,
) -> Path:
    """Write a fused network as safetensors, atomically.

    With ``backbone``, ``conv`` and ``num_classes`` the file also says how the network is built, and `load_fused` builds
    it; without them it holds the weights of any network, and `load_fused` is given the network to load them into.

    Args:
        network: Fused, as `fuse_model` returns it.
        path: File to write, by convention ``*.safetensors``.
        info: Plain data of your own (accuracy, where the weights came from); kept as JSON in the file's metadata and
            readable with `fused_info`. ``preprocessing`` tells how images are prepared, if given, by any of
            ``image_shape``, ``mean``, ``std``, ``resize``, ``exif`` and ``class_names``.
        backbone: What built the network: a class, a function of a module, or a ``functools.partial`` of one, called
            with the conv builder and the number of classes.
        conv: The conv builder.
        num_classes: Number of classes.
        inputs: An example of what the network takes, of which shapes and types are written. A network that was fused
            with an ``example_input`` needs it: `load_fused` fuses the network that it is given in the same way.

    Returns:
        The path.

    Raises:
        TypeError: Backbone or conv builder cannot be described in plain data.
        ValueError: The network holds blocks that are not fused, only some of ``backbone``, ``conv`` and ``num_classes``
            are given, or a field of ``preprocessing`` is of another type, length or range.

    Examples:
        >>> import tempfile
        >>> from acnet_pl import ACBConv
        >>> from acnet_pl.backbones import CifarQuick
        >>> acnet = CifarQuick(ACBConv(), 10).eval()
        >>> path = Path(tempfile.mkdtemp()) / "fused.safetensors"
        >>> _ = save_fused(fuse_model(acnet), path, backbone=CifarQuick, conv=ACBConv(), num_classes=10)
        >>> type(load_fused(path)).__name__
        'CifarQuick'
    """
    path = Path(path)
    about = dict(info or {})
    _check_preprocessing(about, "`info`")
    inside = network.named_modules()
    if blocks := [name or type(module).__name__ for name, module in inside if isinstance(module, FusibleConv)]:
        raise ValueError(
            f"the network is not fused: {listed(blocks, 2)}; give fuse_model(network.eval()), or save the network as "
            "it is by torch.save(network.state_dict(), path)"
        )
    given = {"backbone": backbone, "conv": conv, "num_classes": num_classes}
    if any(value is not None for value in given.values()):
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise ValueError(f"a network is built from backbone, conv and num_classes; {', '.join(missing)} not given")
        about.update(backbone=describe(backbone), conv=describe(conv), num_classes=num_classes)
    if inputs is not None:
        about["inputs"] = describe_inputs(inputs)
    # Cloned, because safetensors takes no two names of one tensor.
    state = network.state_dict().items()
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state}
    with atomic_path(path) as unfinished:
        # A single entry: safetensors writes several in an order that differs from file to file.
        save_file(tensors, unfinished, metadata={"acnet_pl": json.dumps({"format": FORMAT, **about})})
    return path


def fused_info(path: str | Path) -> dict[str, Any]:
    """Read what was written beside the weights: architecture, classes, preprocessing, where it came from.

    Args:
        path: File that `save_fused` wrote, or the folder of a run that has a fused.safetensors.

    Raises:
        ValueError: The file is missing, truncated, not one that `save_fused` wrote, or tells nonsense of its images.
    """
    path = _file_of(path)
    try:
        check_regular(path)
        _refuse_checkpoint(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}; `fit` and `fuse` write such files") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); write it again with `fuse`") from error
    try:
        info = json.loads(metadata.get("acnet_pl", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: what it says of its network is not JSON ({error})") from error
    found = info.pop("format", metadata.get("format")) if isinstance(info, dict) else None
    if found != FORMAT or not isinstance(info, dict):
        raise ValueError(
            f"{path} is not a file of acnet_pl (format {found!r}, expected {FORMAT!r}); read it by "
            f"weights = safetensors.torch.load_file({str(path)!r}), and give weights of a fused network to "
            "fuse_model(MyNet().eval()).load_state_dict(weights), those of the stock architecture to "
            "MyNet().load_state_dict(weights)"
        )
    if "folded" in info:  # the former name
        info["weights"] = info.pop("folded")
    _check_preprocessing(info, path)
    return info


def is_described(info: Mapping[str, Any]) -> bool:
    """Return True if the ``info`` of a file says how the network is built."""
    return info.keys() >= _ARCHITECTURE


def load_fused(path: str | Path, device: str | torch.device = "cpu", into: nn.Module | None = None) -> nn.Module:
    """Build the fused network of a ``fused.safetensors`` and load its weights; ready for inference.

    Args:
        path: File that `save_fused`, a run or ``python -m acnet_pl fuse`` wrote, or the folder of a run that has a
            fused.safetensors.
        device: Where to put the network.
        into: For files of networks of your own: the network as it was trained or as it was before conversion, with any
            weights. It stays as it is.

    Returns:
        The network in eval mode; of an `ImageClassifier` from normalised images ``(N, 3, H, W)`` to logits
        ``(N, num_classes)``. How to normalise is under ``preprocessing`` in `fused_info`.

    Raises:
        ValueError: The file is damaged, was made with a backbone of a package that you have not imported, does not say
            how its network is built, or is of another network than ``into``.
    """
    path = _file_of(path)
    info = fused_info(path)
    if into is None and not is_described(info):
        raise ValueError(
            f"{path} does not say how its network is built; give the network as it was trained, with any weights: "
            f"load_fused({str(path)!r}, into={str(info.get('network', 'MyNet')).rpartition('.')[2]}(...))"
        )
    if into is None:
        with built_within(path):
            network = build_network(info["backbone"], info["conv"], info["num_classes"])
        network = fuse_model(network.eval())
    else:
        network = deep_copy(into).cpu().eval()
        network = fuse_model(network, example_inputs(info.get("inputs"), _precision(network)))
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        check_names(network, tensors, has_inputs=info.get("inputs") is not None)
        check_values(network, tensors)
        network.load_state_dict(tensors, strict=True, assign=True)
    except (ValueError, RuntimeError, SafetensorError, OSError) as error:
        which = "the network it describes" if into is None else f"the network that is given, a {type(into).__name__}"
        raise ValueError(f"{path} does not fit {which}: {error}") from error
    return network.to(device).eval()


def describe_inputs(inputs: Any) -> Any:
    """Describe shapes and types of a network's input as plain data for `example_inputs`.

    Args:
        inputs: Tensors, nested in tuples, lists and dicts.

    Examples:
        >>> describe_inputs((torch.zeros(2, 3, 8, 8),))
        {'tuple': [{'tensor': 'float32', 'shape': [2, 3, 8, 8]}]}
    """
    if isinstance(inputs, torch.Tensor):
        return {"tensor": str(inputs.dtype).removeprefix("torch."), "shape": list(inputs.shape)}
    if isinstance(inputs, Mapping):
        return {"dict": {str(name): describe_inputs(value) for name, value in inputs.items()}}
    if isinstance(inputs, (tuple, list)):
        return {type(inputs).__name__: [describe_inputs(value) for value in inputs]}
    return None


def example_inputs(described: Any, precision: torch.dtype | None = None) -> Any:
    """Make an example input from a description: random for floating-point types, zeros for others.

    Args:
        described: Result of `describe_inputs`.
        precision: Of the floating-point numbers; None is what they were.

    Raises:
        ValueError: It is no such description, or one of far more numbers than networks take.
    """
    if _numbers_in(described) > _MOST_NUMBERS:
        raise ValueError(f"the inputs are described by shapes of more than {_MOST_NUMBERS:,} numbers")
    if described is None:
        return None
    match described:
        case {"tensor": str(name), "shape": list(shape)}:
            dtype = getattr(torch, name, None)
            if not isinstance(dtype, torch.dtype) or not all(isinstance(n, int) and 0 <= n < 2**16 for n in shape):
                raise ValueError(f"the inputs are described by {described!r}, expected a torch dtype and a shape")
            return (
                torch.randn(shape, dtype=precision or dtype)
                if dtype.is_floating_point
                else torch.zeros(shape, dtype=dtype)
            )
        case {"dict": dict(items)}:
            return {name: example_inputs(value, precision) for name, value in items.items()}
        case {"tuple": list(values)}:
            return tuple(example_inputs(value, precision) for value in values)
        case {"list": list(values)}:
            return [example_inputs(value, precision) for value in values]
    raise ValueError(f"the inputs are described by {described!r}, expected a tensor, tuple, list or dict")


def _file_of(path: str | Path) -> Path:
    """Return the fused file of a run's folder, or the path itself if it is no folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / _FILE).is_file():
        raise ValueError(f"{path} is a folder without a {_FILE}; give the file, or make one with `acnet_pl fuse CKPT`")
    return path / _FILE


def _refuse_checkpoint(path: Path) -> None:
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        what = "a checkpoint" if path.suffix == ".ckpt" else "a file of torch.save"
        raise ValueError(f"{path} is {what}, not a fused file; of a run's checkpoint `acnet_pl fuse {path}` makes one")


def _check_preprocessing(info: Mapping[str, Any], source: object) -> None:
    if info.get("preprocessing") is not None:
        check_preparation(info["preprocessing"], source)


def _numbers_in(described: Any) -> int:
    """Return how many numbers the tensors of a description have; 0 for what is no description."""
    match described:
        case {"tensor": str(), "shape": list(shape)} if all(isinstance(n, int) for n in shape):
            return math.prod(shape) if len(shape) <= _MOST_DIMENSIONS else _MOST_NUMBERS + 1
        case {"dict": dict(items)}:
            return sum(map(_numbers_in, items.values()))
        case {"tuple": list(values)} | {"list": list(values)}:
            return sum(map(_numbers_in, values))
    return 0


def _precision(network: nn.Module) -> torch.dtype | None:
    tensors = [*network.parameters(), *network.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
