"""Table 4: what each part of the block contributes, and robustness to rotation, on ImageNet."""

from acnet_pl.reproduce.grid import Grid, Measure, Model, Published, Variant
from acnet_pl.reproduce.protocols import ACNET, IMAGENET, IMAGENET_RECIPES, PLAIN

__all__ = ["GRID", "ROTATIONS", "VARIANTS"]

ROTATIONS = (
    Measure("rotation/original/top1", "Original images"),
    Measure("rotation/rotate_90/top1", "Rotated 90°"),
    Measure("rotation/rotate_180/top1", "Rotated 180°"),
    Measure("rotation/flip_up_down/top1", "Flipped up-down"),
)

VARIANTS = (
    PLAIN,
    Variant("acb_vertical", "vertical kernels only"),
    Variant("acb_horizontal", "horizontal kernels only"),
    ACNET,
    Variant("acb_norm_after_sum", "both, one batch norm after the sum"),
)

_ARTICLE = {  # rows in the order of VARIANTS, columns in that of ROTATIONS
    "alexnet": (
        (55.92, 28.18, 31.41, 31.62),
        (57.10, 29.65, 32.86, 33.02),
        (57.25, 29.97, 33.74, 33.74),
        (57.44, 30.49, 33.98, 33.82),
        (56.18, 28.81, 32.12, 32.33),
    ),
    "resnet18": (
        (70.36, 41.00, 41.95, 41.86),
        (70.78, 41.61, 42.47, 42.66),
        (70.70, 42.06, 43.22, 43.05),
        (71.14, 42.20, 42.89, 43.10),
        (70.82, 41.70, 42.92, 42.90),
    ),
}

GRID = Grid(
    name="table4",
    title="Table 4: ablations and rotational distortions on ImageNet",
    data=IMAGENET,
    models=(Model("alexnet", "AlexNet"), Model("resnet18", "ResNet-18")),
    variants=VARIANTS,
    recipes=IMAGENET_RECIPES,
    measures=ROTATIONS,
    layout="variants",
    published=(
        Published(
            "article, Table 4",
            "article",
            {
                (model, variant.key, measure.key): value
                for model, rows in _ARTICLE.items()
                for variant, row in zip(VARIANTS, rows, strict=True)
                for measure, value in zip(ROTATIONS, row, strict=True)
            },
        ),
    ),
)
