"""A small grid on handwritten digits: everything that the article's tables and figures have, in minutes on a CPU."""

from acnet_pl.reproduce.grid import Dataset, Grid, Model, Recipe
from acnet_pl.reproduce.grids.fig5 import VARIANTS
from acnet_pl.reproduce.grids.table4 import ROTATIONS

__all__ = ["GRID"]

GRID = Grid(
    name="digits",
    title="Handwritten digits: plain, ACNet and the border variant",
    data=Dataset("scikit-learn's digits", "DigitsDataModule", 1_197, 10, (3, 32, 32), "digits-", holdout=()),
    models=(Model("cifar_quick", "Cifar-quick"), Model("resnet8", "ResNet-8")),
    variants=VARIANTS,
    recipes={"digits": Recipe("15 epochs, cosine", "digits/{model}.yaml")},
    measures=ROTATIONS,
    layout="variants",
    claims=("The article has no such experiment; there are 300 test digits, so one digit is 0.33 points.",),
    analyses=("pruning", "magnitude"),
)
