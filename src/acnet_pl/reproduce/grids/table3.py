"""Table 3: AlexNet, ResNet-18 and DenseNet-121, plain and as ACNet, on ImageNet."""

from acnet_pl.reproduce.grid import Grid, Model, Published
from acnet_pl.reproduce.protocols import ACNET, IMAGENET, IMAGENET_RECIPES, PLAIN, TOP1, TOP5, pairs

__all__ = ["GRID"]

_TOP1 = {"alexnet": (55.92, 57.44), "resnet18": (70.36, 71.14), "densenet121": (75.15, 75.82)}
_TOP5 = {"alexnet": (79.53, 80.73), "resnet18": (89.61, 89.96), "densenet121": (92.45, 92.77)}

GRID = Grid(
    name="table3",
    title="Table 3: single-crop accuracy on ImageNet",
    data=IMAGENET,
    models=(Model("alexnet", "AlexNet"), Model("resnet18", "ResNet-18"), Model("densenet121", "DenseNet-121")),
    variants=(PLAIN, ACNET),
    recipes=IMAGENET_RECIPES,
    measures=(TOP1, TOP5),
    published=(
        Published("article, Table 3", "article", {**pairs(TOP1, _TOP1), **pairs(TOP5, _TOP5)}),
        Published("authors' code", "cosine", pairs(TOP1, {"resnet18": (70.6, 71.2)})),
    ),
)
