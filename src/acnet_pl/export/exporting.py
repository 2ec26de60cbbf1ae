"""export_model: fuse a network, write it in a format, and verify the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from acnet_pl.analysis.evaluation import evaluating, placed
from acnet_pl.atomic import atomic_path
from acnet_pl.export.errors import ExportError
from acnet_pl.export.formats import Format, Onnx, Safetensors, Stock, TorchExport
from acnet_pl.export.verification import Verification, verify

__all__ = ["FORMATS", "Export", "ExportError", "FormatName", "export_model"]

FormatName = Literal["onnx", "torch_export", "safetensors", "stock"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
"""The formats that `export_model` writes."""

RANDOM_IMAGES = 8


@dataclass(frozen=True)
class Export:
    """An exported file.

    Attributes:
        path: The file.
        format: Its format.
        verification: Differences between the file's outputs and the network's.
    """

    path: Path
    format: FormatName
    verification: Verification


def export_model(
    model: nn.Module,
    path: str | Path,
    format: FormatName = "onnx",
    *,
    example_input: Tensor,
    dynamic_batch: bool = False,
    stock: nn.Module | None = None,
    batches: Iterable[Tensor | Sequence[Tensor]] = (),
    tolerance: float = 1e-4,
    info: Mapping[str, Any] | None = None,
) -> Export:
    """Fuse a network, write it as a file for deployment, and verify the file before it is kept.

    The file is compared with the network *as it was trained*, its blocks evaluated branch by branch, on random images
    and on those given: fusing and export are checked together. Where it is further off than ``tolerance``, or anything
    fails, there is no file, and one that was there before stays.

    Args:
        model: From images ``(N, C, H, W)`` to a tensor, or lists, tuples or dicts of tensors: an ACNet, trained, or any
            other network. What it computes in eval mode is exported. It stays as it is.
        path: File to write.
        format: ``"onnx"`` (verified in onnxruntime), ``"torch_export"`` (a ``.pt2`` for ``torch.export.load``),
            ``"safetensors"`` (the fused weights), or ``"stock"`` (weights for the architecture without blocks, as
            safetensors).
        example_input: Images ``(N, C, H, W)``; N is the batch size that onnx and torch_export fix, H and W the size.
        dynamic_batch: Have onnx and torch_export take any batch size.
        stock: For ``"stock"``: the architecture without blocks, that is the model given to `convert_to_acnet` or the
            same backbone built with `PlainConv`. Its values do not matter.
        batches: Real images, normalised as the network takes them, or tuples that begin with them.
        tolerance: Largest difference allowed, relative to the largest output.
        info: Plain data to keep in the file as JSON, where the format has room (not ``"stock"``). For
            ``"safetensors"`` what `acnet_pl.deploy.save_fused` asks for.

    Raises:
        ExportError: The file does not compute the same, or the network takes a branch by the values of its data, which
            onnx and torch_export cannot hold.
        ModuleNotFoundError: A package is missing; the message has the command that installs it.
        FusionError: The network cannot be fused, or the stock architecture cannot take up a bias.
        ValueError: An argument is out of its range.

    Examples:
        >>> import tempfile
        >>> from acnet_pl.backbones import CifarQuick
        >>> from acnet_pl.nn import ACBConv
        >>> path = Path(tempfile.mkdtemp(), "net.safetensors")
        >>> export = export_model(
        ...     CifarQuick(ACBConv(), 10), path, "safetensors", example_input=torch.randn(1, 3, 32, 32)
        ... )
        >>> export.verification.within(1e-5)
        True
    """
    path, writer = Path(path), _format(format, stock)
    if example_input.dim() != 4 or len(example_input) == 0:
        raise ValueError(f"`example_input` must be images (N, C, H, W), got {tuple(example_input.shape)}")
    writer.check()
    images = placed(model, example_input)
    fixed = len(images) if writer.fixes_batch and not dynamic_batch else None
    # Exporters take a batch of one for a network that takes one image alone.
    example = images.repeat(2, 1, 1, 1) if dynamic_batch and len(images) == 1 else images
    with atomic_path(path) as unfinished, evaluating(model):
        writer.write(model, unfinished, example, dynamic_batch, info)
        try:
            verification = verify(model, writer.read(model, unfinished), _batches(images, batches, fixed))
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a runtime may fail in any way on a file that it does not like
            raise ExportError(
                f"the {format} file that was written does not run, so it was not kept: {error}"
            ) from error
        if not verification.within(tolerance):
            raise ExportError(
                f"the {format} file does not compute what the network does, so it was not kept: {verification}; "
                f"tolerance {tolerance:g} (relative)"
            )
    return Export(path, format, verification)


def _format(name: FormatName, stock: nn.Module | None) -> Format:
    if name not in FORMATS:
        raise ValueError(f"`format` (={name!r}) must be one of {', '.join(map(repr, FORMATS))}")
    if (name == "stock") != (stock is not None):
        raise ValueError(
            "format='stock' needs `stock`: the architecture without blocks, into which the weights are to load"
            if stock is None
            else f"`stock` is for format='stock', got format={name!r}"
        )
    if stock is not None:
        return Stock(stock)
    formats: dict[str, Format] = {"onnx": Onnx(), "torch_export": TorchExport(), "safetensors": Safetensors()}
    return formats[name]


def _batches(example: Tensor, real: Iterable[Tensor | Sequence[Tensor]], size: int | None) -> Iterator[Tensor]:
    """Yield random and real images in batches of one size, or of several sizes if the batch size is free.

    Where the size is fixed a last batch is filled up with the first image of it.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(RANDOM_IMAGES, *example.shape[1:], generator=generator).to(example)
    given = (batch if isinstance(batch, Tensor) else batch[0] for batch in real)
    for batch in (example, random, random[:1], *given):
        for part in torch.split(batch, size or len(batch)):
            missing = 0 if size is None else size - len(part)
            yield torch.cat([part, part[:1].expand(missing, -1, -1, -1)]) if missing else part
