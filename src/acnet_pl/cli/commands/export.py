"""Write the fused network of a checkpoint as ONNX, exported program or stock weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from acnet_pl.cli.functions import run_function
from acnet_pl.cli.random_images import check_image_size, random_images
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import check_output, check_there

__all__ = ["export", "run"]

FormatName = Literal["onnx", "torch_export", "safetensors", "stock"]  # those of acnet_pl.export, which imports torch
_FILES: dict[FormatName, str] = {
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
    "safetensors": "model.safetensors",
    "stock": "stock.safetensors",
}
_USE: dict[FormatName, str] = {
    "onnx": "onnxruntime.InferenceSession({path!r})",
    "torch_export": "torch.export.load({path!r}).module()",
    "safetensors": "acnet_pl.load_fused({path!r})",
    "stock": "model = {stock}; model.load_state_dict(safetensors.torch.load_file({path!r}))",
}
_EXAMPLES = (
    "export runs/NAME/TIME/checkpoints/last.ckpt --dynamic_batch",
    "export runs/NAME/TIME/checkpoints/last.ckpt --format torch_export --images photos/",
    "export runs/NAME/TIME/checkpoints/last.ckpt --format stock --output weights.safetensors",
)


def export(
    checkpoint: Path,
    format: FormatName = "onnx",
    output: Path | None = None,
    image_size: int | None = None,
    batch_size: int = 1,
    dynamic_batch: bool = False,
    images: Path | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Fuse the network of a checkpoint, write it for deployment, and verify the file against the trained network.

    Args:
        checkpoint: A checkpoint of a run, or a fused.safetensors (not for --format stock).
        format: onnx, torch_export (a .pt2), safetensors (fused weights), or stock (weights for the architecture
            without asymmetric blocks, such as torchvision's own).
        output: File to write; the default is model.onnx, model.pt2, model.safetensors or stock.safetensors in the
            run's folder.
        image_size: Height and width of the images; the default is what the run's fused.safetensors says.
        batch_size: Images that onnx and torch_export files take at once.
        dynamic_batch: Let onnx and torch_export files take any number of images.
        images: Folder of real images, at any depth, to verify the file with besides random ones.
        tolerance: Largest difference allowed between the outputs of trained network and file, relative to the largest.
    """
    if batch_size < 1:
        raise UsageError(f"`batch_size` (={batch_size}) must be at least 1")
    check_image_size(image_size)
    check_there(checkpoint, "checkpoint")
    if images is not None:
        check_there(images, "folder")
    if output is not None:
        output = check_output(output, checkpoint, ending=Path(_FILES[format]).suffix)
    from rich.console import Console

    from acnet_pl.cli.trained import image_size_of, load_for_export, real_images, stock_constructor, stock_network
    from acnet_pl.export import export_model

    network, info, folder = load_for_export(checkpoint, format)
    preprocessing = info.get("preprocessing") or {}
    size = image_size or image_size_of(info)
    if size is None:
        raise ValueError(
            f"{checkpoint} does not say how large its images are, nor does a fused.safetensors in {folder}; give "
            "--image_size"
        )
    example = random_images(batch_size, size, seed=1)
    network, stock = stock_network(network, info) if format == "stock" else (network, None)
    path = output or folder / _FILES[format]
    was_there = path.exists()
    written = export_model(
        network,
        path,
        format,
        example_input=example,
        dynamic_batch=dynamic_batch,
        stock=stock,
        batches=() if images is None else real_images(images, size, preprocessing),
        tolerance=tolerance,
        info=None if format == "stock" else info,
    )
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(f"{format} file vs the network of {checkpoint.name}: {written.verification}")
    takes = ""
    if format in ("onnx", "torch_export"):
        takes = " for any batch" if dynamic_batch else f" for batches of {batch_size}"
    use = _USE[format].format(path=str(path), stock=stock_constructor(info) if format == "stock" else "")
    console.print(f"Wrote {path}{takes}{' (replaced the file that was there)' * was_there}; load it with {use}")


def run(args: Sequence[str]) -> None:
    """Parse the options and export."""
    options = list(args)
    for index, option in enumerate(options):
        if option in ("--dynamic_batch", "--dynamic-batch") and options[index + 1 : index + 2] not in (
            ["true"],
            ["false"],
        ):
            options[index] = "--dynamic_batch=true"
    run_function(export, options, _EXAMPLES)
