"""Fig. 5: accuracy of ResNet-56 when weights are removed at chosen places: plain, ACNet, and the border variant."""

from acnet_pl.reproduce.grid import Grid, Model, Published, Variant
from acnet_pl.reproduce.protocols import ACNET, CIFAR10, CIFAR_RECIPES, PLAIN, TOP1

__all__ = ["GRID", "PUBLISHED", "VARIANTS"]

VARIANTS = (PLAIN, ACNET, Variant("acb_border", "ACNet, border"))
PUBLISHED = Published(
    "article, Table 1 and Sect. 4.4",
    "article",
    {
        ("resnet56", "plain", TOP1.key): 94.31,
        ("resnet56", "acb", TOP1.key): 95.09,
        ("resnet56", "acb_border", TOP1.key): 94.67,
    },
)

GRID = Grid(
    name="fig5",
    title="Fig. 5: accuracy of ResNet-56 on CIFAR-10 with weights removed at chosen places of its 3×3 kernels",
    data=CIFAR10,
    models=(Model("resnet56", "ResNet-56"),),
    variants=VARIANTS,
    recipes=CIFAR_RECIPES,
    measures=(TOP1,),
    layout="variants",
    published=(PUBLISHED,),
    claims=(
        "Removing corner weights costs least and removing skeleton weights most, in the plain network (Fig. 5a).",
        "In the ACNet the gap is wider: with almost all corner weights removed it is still above 60 %, while a "
        "ratio of 13 % taken from the skeleton destroys it (Fig. 5b).",
        "In the border variant corners still cost least, and border and top-left 2×2 squares are alike (Fig. 5c).",
    ),
    analyses=("pruning",),
)
