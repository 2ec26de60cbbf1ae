"""Writers and readers of each format."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acnet_pl.deploy import fused_info, is_described, load_fused, save_fused
from acnet_pl.export.capturing import capturing, quiet
from acnet_pl.export.errors import ExportError
from acnet_pl.export.stock import stock_weights
from acnet_pl.export.verification import Runner, tensors_in
from acnet_pl.nn import fuse_model
from acnet_pl.nn.surgery.copying import deep_copy

__all__ = ["Format", "Onnx", "Safetensors", "Stock", "TorchExport"]

METADATA_KEY = "acnet_pl"
INPUT = "images"
"""Name of the input of ONNX files."""


class Format(ABC):
    """Kind of file that a network is exported to.

    Attributes:
        suffix: Of its files, by convention.
        fixes_batch: Whether a file takes one batch size alone, unless it is told not to.
    """

    suffix: str
    fixes_batch: bool = False

    def check(self) -> None:
        """Raise ModuleNotFoundError, naming the extra to install, if a package is missing."""
        return

    @abstractmethod
    def write(
        self, network: nn.Module, path: Path, images: Tensor, dynamic_batch: bool, info: Mapping[str, Any] | None
    ) -> None:
        """Write the fused network.

        Args:
            network: As it was trained, in eval mode.
            path: File to write.
            images: An example ``(N, C, H, W)`` on the network's device.
            dynamic_batch: Leave N open, where the format would fix it.
            info: Plain data to keep in the file, where the format has room for it.
        """

    @abstractmethod
    def read(self, network: nn.Module, path: Path) -> Runner:
        """Read the file from disk, and return what it computes as a function of images on the CPU.

        Args:
            network: The one that was written.
            path: The file.
        """


class Onnx(Format):
    """ONNX, for onnxruntime and many others; ``info`` is in ``metadata_props``."""

    suffix = ".onnx"
    fixes_batch = True

    def check(self) -> None:  # noqa: D102
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(f"ONNX export needs {', '.join(missing)}: pip install 'acnet-pl[export]'")

    def write(  # noqa: D102
        self, network: nn.Module, path: Path, images: Tensor, dynamic_batch: bool, info: Mapping[str, Any] | None
    ) -> None:
        import onnx

        fused, images = _fused(network, images)
        program = _program(fused, images, dynamic_batch)
        with quiet():
            torch.onnx.export(
                program,
                (images,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[INPUT],
                output_names=_output_names(fused(images)),
            )
        if info is not None:
            model = onnx.load(path)
            onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(info)})
            onnx.save(model, path)

    def read(self, network: nn.Module, path: Path) -> Runner:  # noqa: D102
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        return lambda images: [torch.from_numpy(output) for output in session.run(None, {image.name: images.numpy()})]


class TorchExport(Format):
    """PyTorch's exported program, for ``torch.export.load``; ``info`` is among its extra files."""

    suffix = ".pt2"
    fixes_batch = True

    def write(  # noqa: D102
        self, network: nn.Module, path: Path, images: Tensor, dynamic_batch: bool, info: Mapping[str, Any] | None
    ) -> None:
        fused, images = _fused(network, images)
        extra = {} if info is None else {f"{METADATA_KEY}.json": json.dumps(info)}
        program = _program(fused, images, dynamic_batch)
        with quiet(), path.open("wb") as file:  # by name it takes .pt2 alone
            torch.export.save(program, file, extra_files=extra)

    def read(self, network: nn.Module, path: Path) -> Runner:  # noqa: D102
        with quiet(), path.open("rb") as file:
            program = torch.export.load(file).module()
        return lambda images: tensors_in(program(images))


class Safetensors(Format):
    """The fused network's weights, for `acnet_pl.load_fused`, which builds the network if ``info`` is of a backbone."""

    suffix = ".safetensors"

    def write(  # noqa: D102
        self, network: nn.Module, path: Path, images: Tensor, dynamic_batch: bool, info: Mapping[str, Any] | None
    ) -> None:
        fused, images = _fused(network, images)
        save_fused(fused, path, info, inputs=None if info and is_described(info) else images)

    def read(self, network: nn.Module, path: Path) -> Runner:  # noqa: D102
        return _runner(load_fused(path, into=None if is_described(fused_info(path)) else network))


class Stock(Format):
    """Weights for the architecture without blocks: the same keys and shapes as its own.

    Args:
        stock: That architecture; it stays as it is.
    """

    suffix = ".safetensors"

    def __init__(self, stock: nn.Module) -> None:
        self.stock = stock

    def write(  # noqa: D102
        self, network: nn.Module, path: Path, images: Tensor, dynamic_batch: bool, info: Mapping[str, Any] | None
    ) -> None:
        _save(stock_weights(network, self.stock), path)

    def read(self, network: nn.Module, path: Path) -> Runner:  # noqa: D102
        return _runner(_loaded(deep_copy(self.stock).cpu(), load_file(path)))


def _fused(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Return the fused network and the example on the CPU."""
    return fuse_model(network, images).cpu().requires_grad_(False), images.cpu()


def _output_names(outputs: object) -> list[str] | None:
    """Name outputs after their keys and places; None leaves it to the exporter where that gives no distinct names.

    Examples:
        >>> _output_names(torch.zeros(1)), _output_names({"out": torch.zeros(1), "aux": [torch.zeros(1)]})
        (['output'], ['out', 'aux.0'])
    """
    names = [name or "output" for name, _ in _named_tensors(outputs, "")]
    tensors = [id(tensor) for _, tensor in _named_tensors(outputs, "")]
    distinct = len({*names, INPUT}) == len(names) + 1 and len({*tensors}) == len(tensors)
    return names if names and distinct else None


def _named_tensors(outputs: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors of `tensors_in`, with their places in the outputs."""
    if isinstance(outputs, Tensor):
        yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(outputs, (list, tuple)):
        for index, value in enumerate(outputs):
            yield from _named_tensors(value, f"{name or 'output'}.{index}")


def _program(fused: nn.Module, images: Tensor, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """Capture a network for the example's number of images, or for any.

    Raises:
        ExportError: The code depends on the values of its data or, where it is left open, on the number of images.
    """
    from torch._dynamo.exc import UserError, UserErrorType

    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with capturing():
            return torch.export.export(fused, (images,), dynamic_shapes=shapes, strict=False)
    except UserError as error:
        if not dynamic_batch or error.error_type is not UserErrorType.CONSTRAINT_VIOLATION:
            raise
        raise ExportError(
            "the network's code depends on the number of images, so no file holds it for any number; export it for one "
            "number, that of the example (without --dynamic_batch, dynamic_batch=False)"
        ) from error


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors; shared memory is written once per name."""
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}, path)


def _loaded(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with these weights; a missing weight is an error."""
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _runner(model: nn.Module) -> Runner:
    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tensors_in(model(images))

    return run
