"""Write the fused network of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acnet_pl.cli.functions import run_function
from acnet_pl.cli.random_images import check_image_size, random_images
from acnet_pl.config.files import check_output, check_there

__all__ = ["fuse", "run"]

_EXAMPLES = (
    "fuse runs/NAME/TIME/checkpoints/last.ckpt",
    "fuse runs/NAME/TIME/checkpoints/last.ckpt --output weights/fused.safetensors",
)


def fuse(checkpoint: Path, output: Path | None = None, image_size: int | None = None, tolerance: float = 1e-4) -> None:
    """Fuse the network of a checkpoint, compare the two on random images, and write the fused weights.

    Args:
        checkpoint: A checkpoint that a run wrote.
        output: File to write; the default is fused.safetensors in the run's folder.
        image_size: Height and width of the random images that are compared; the default is what the run's
            fused.safetensors says, or else 32.
        tolerance: Largest relative difference allowed between the trained and the fused network.
    """
    check_image_size(image_size)
    check_there(checkpoint, "checkpoint")
    if output is not None:
        output = check_output(output, checkpoint, ending=".safetensors")
    from rich.console import Console

    from acnet_pl.analysis import compare, complexity
    from acnet_pl.cli.trained import image_size_of, load_trained
    from acnet_pl.deploy import save_fused
    from acnet_pl.nn import FusionError
    from acnet_pl.nn.surgery.fuse import fuse_with_report

    network, info, folder = load_trained(checkpoint)
    if output is None:  # a link with this name is replaced: the folder may come from elsewhere
        check_output(output := folder / "fused.safetensors", checkpoint)
    image_size = image_size or image_size_of(info) or 32
    images = random_images(8, image_size, seed=0)
    fused, report = fuse_with_report(network, images)
    equivalence = compare(network, fused, [images])
    if not equivalence.within(tolerance):
        raise FusionError(
            f"the fused network is not the trained one: {equivalence}; tolerance {tolerance:g} (relative)"
        )
    path = save_fused(fused, output, info)
    shape = (3, image_size, image_size)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(
        f"Before: {complexity(network, shape)}\nAfter:  {complexity(fused, shape)}\n"
        f"{equivalence} (random images; `test` compares on those of the run)"
    )
    console.print(report.summary())
    console.print(f"Wrote {path}; load it with acnet_pl.load_fused({str(path)!r})")


def run(args: Sequence[str]) -> None:
    """Parse the options and fuse."""
    run_function(fuse, args, _EXAMPLES)
