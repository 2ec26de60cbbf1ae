"""All variants of the block on a small network and CIFAR-10: Table 4, Fig. 5 and Fig. 6 at a size for few devices."""

from acnet_pl.reproduce.grid import Grid, Model, Recipe
from acnet_pl.reproduce.grids.fig5 import VARIANTS as POSITIONS
from acnet_pl.reproduce.grids.table4 import ROTATIONS, VARIANTS
from acnet_pl.reproduce.protocols import CIFAR10

__all__ = ["GRID"]

GRID = Grid(
    name="ablations",
    title="Ablations: all variants of the block in ResNet-20 on CIFAR-10",
    data=CIFAR10,
    models=(Model("resnet20", "ResNet-20"),),
    variants=(*VARIANTS, POSITIONS[-1]),
    recipes={"cosine": Recipe("200 epochs, cosine", "cifar10/{model}.yaml")},
    measures=ROTATIONS,
    layout="variants",
    claims=(
        "The article has these ablations for AlexNet and ResNet-18 on ImageNet (Table 4) and for ResNet-56 (Fig. 5 and "
        "6): each part of the block adds to its accuracy, horizontal kernels most to that on flipped images.",
    ),
    analyses=("magnitude", "pruning"),
    pruned=POSITIONS,
)
