"""Blocks side by side: every re-parameterised block of the package in one network under one recipe."""

from acnet_pl.reproduce.grid import Grid, Model, Variant
from acnet_pl.reproduce.protocols import ACNET, CIFAR10, CIFAR_RECIPES, PLAIN, TOP1

__all__ = ["GRID"]

GRID = Grid(
    name="blocks",
    title="Blocks side by side: Cifar-quick on CIFAR-10",
    data=CIFAR10,
    models=(Model("cifar_quick", "Cifar-quick"),),
    variants=(
        PLAIN,
        ACNET,
        Variant("acb_share_eighth", "ACB, branch scales of an eighth of the batch"),
        Variant("acb_scaled", "ACB with scales, online"),
        Variant("acb_plus", "ACB + 1×1 + identity"),
        Variant("dbb", "DBB"),
        Variant("repvgg", "RepVGG"),
        Variant("mobileone", "MobileOne, 4 branches"),
        Variant("orepa", "OREPA, online"),
    ),
    recipes={"cosine": CIFAR_RECIPES["cosine"]},
    measures=(TOP1,),
    layout="variants",
    costs=True,
    claims=(
        "Each article compares its block with plain convolutions on ImageNet, in recipes of its own; none has them all "
        "in one. ResNet-18 there gains about 0.7 points by ACB and 1.0 by DBB (the DBB article).",
    ),
)
