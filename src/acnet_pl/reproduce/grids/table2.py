"""Table 2: five networks, plain and as ACNet, on CIFAR-100."""

from acnet_pl.reproduce.grid import Grid, Published
from acnet_pl.reproduce.protocols import ACNET, CIFAR100, CIFAR_MODELS, CIFAR_RECIPES, PLAIN, TOP1, pairs

__all__ = ["GRID"]

_ARTICLE = {
    "cifar_quick": (53.22, 54.30),
    "vgg16": (74.56, 75.20),
    "resnet56": (73.58, 74.04),
    "wrn16_8": (78.65, 79.44),
    "densenet40": (73.14, 73.41),
}

GRID = Grid(
    name="table2",
    title="Table 2: top-1 accuracy on CIFAR-100",
    data=CIFAR100,
    models=CIFAR_MODELS,
    variants=(PLAIN, ACNET),
    recipes=CIFAR_RECIPES,
    measures=(TOP1,),
    published=(Published("article, Table 2", "article", pairs(TOP1, _ARTICLE)),),
)
