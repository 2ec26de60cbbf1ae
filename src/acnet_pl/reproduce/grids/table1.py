"""Table 1: five networks, plain and as ACNet, on CIFAR-10."""

from acnet_pl.reproduce.grid import Grid, Published
from acnet_pl.reproduce.protocols import ACNET, CIFAR10, CIFAR_MODELS, CIFAR_RECIPES, PLAIN, TOP1, pairs

__all__ = ["GRID"]

_ARTICLE = {
    "cifar_quick": (83.13, 84.24),
    "vgg16": (94.12, 94.47),
    "resnet56": (94.31, 95.09),
    "wrn16_8": (95.56, 96.15),
    "densenet40": (94.29, 94.84),
}
_AUTHORS = {
    "cifar_quick": (86.20, 86.87),
    "vgg16": (93.99, 94.54),
    "resnet56": (94.55, 95.06),
    "wrn16_8": (95.89, 96.33),
}

GRID = Grid(
    name="table1",
    title="Table 1: top-1 accuracy on CIFAR-10",
    data=CIFAR10,
    models=CIFAR_MODELS,
    variants=(PLAIN, ACNET),
    recipes=CIFAR_RECIPES,
    measures=(TOP1,),
    published=(
        Published("article, Table 1", "article", pairs(TOP1, _ARTICLE)),
        Published("authors' code", "cosine", pairs(TOP1, _AUTHORS)),
    ),
)
