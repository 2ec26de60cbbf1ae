"""Load weights of a stock model from a file that cannot run code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from acnet_pl.regular_files import check_regular
from acnet_pl.torch_file import load_plain
from acnet_pl.weight_values import check_values

__all__ = ["load_weights"]

_LOG = logging.getLogger(__name__)
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception that these backbones do without


def load_weights(model: nn.Module, path: str | Path, num_classes: int) -> None:
    """Load the plain model's weights from a file; a head for another number of classes keeps its initial values.

    Args:
        model: The plain model.
        path: A state_dict, in safetensors or as ``torch.save`` writes it, by itself or as ``state_dict`` or ``model``
            of a dict.
        num_classes: Number of logits of the model.

    Raises:
        ValueError: The file is missing, holds other than tensors of finite numbers, or is of another architecture.
    """
    weights = {key: value for key, value in _read(Path(path)).items() if not key.startswith(_AUXILIARY)}
    own = model.state_dict()
    missing, unexpected = [key for key in own if key not in weights], [key for key in weights if key not in own]
    other: list[str] = []
    head: list[str] = []
    for key in own.keys() & weights.keys():
        shape, given = own[key].shape, weights[key].shape
        if shape != given:
            (head if shape[:1] == (num_classes,) and shape[1:] == given[1:] else other).append(key)
    problems = {"lacks": missing, "also has": unexpected, "has in other shapes": other}
    if any(problems.values()):
        raise ValueError(
            f"{path} is not of a {type(model).__name__} as it was built: the file "
            + "; it ".join(f"{what} {_some(keys)}" for what, keys in problems.items() if keys)
            + ". Give the weights of this very model, or choose the model they are of"
        )
    if head:
        _LOG.info("%s has a head for another number of classes than %d: %s begins anew", path, num_classes, _some(head))
    loaded = {key: value for key, value in weights.items() if key not in head}
    try:
        check_values(model, loaded)
    except ValueError as error:
        raise ValueError(f"{path} holds no weights of a trained model: {error}") from error
    model.load_state_dict(loaded, strict=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        size = check_regular(path)
    except OSError as error:
        what = "nothing is downloaded" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"`weights_file` (={str(path)!r}) is no file ({what}); give the path of one") from error
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError as error:
        raise ValueError(f"`weights_file` (={str(path)!r}) cannot be read ({error.strerror})") from error
    if path.suffix == ".safetensors":
        fits = begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < size
    else:
        fits = begin.startswith((b"PK\x03\x04", b"\x80\x02"))  # an archive of torch.save, or its format before 1.6
    if not fits:
        raise ValueError(_not_weights(path, "it does not begin as one"))
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = load_plain(path, former=True)
    except Exception as error:  # a damaged file may fail in any way
        reason = str(error).strip().splitlines()
        raise ValueError(_not_weights(path, reason[0] if reason else type(error).__name__)) from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(_not_weights(path, "it holds other things than tensors under their names"))
    return content


def _not_weights(path: Path, why: str) -> str:
    return (
        f"{path} is no file of weights that can be read without running code ({why}); save the model's state_dict with "
        "safetensors.torch.save_file or torch.save"
    )


def _some(keys: list[str], most: int = 3) -> str:
    shown = ", ".join(f"`{key}`" for key in sorted(keys)[:most])
    return shown + (f" and {len(keys) - most} more" if len(keys) > most else "")
