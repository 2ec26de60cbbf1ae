"""Cheaper training: is there a variant of the block with most of its gain at nearly the plain network's cost?"""

from acnet_pl.reproduce.grid import Grid, Model, Variant
from acnet_pl.reproduce.protocols import ACNET, CIFAR10, CIFAR_RECIPES, PLAIN, TOP1

__all__ = ["GRID"]

GRID = Grid(
    name="cheaper",
    title="Cheaper training: Cifar-quick and ResNet-20 on CIFAR-10",
    data=CIFAR10,
    models=(Model("cifar_quick", "Cifar-quick"), Model("resnet20", "ResNet-20")),
    variants=(
        PLAIN,
        ACNET,
        Variant("acb_norm_after_sum", "one batch norm after the sum"),
        Variant("acb_scaled", "scaled branches, one batch norm after the sum"),
        Variant("acb_share_eighth", "ACNet, branch scales of an eighth of the batch"),
        Variant("acb_share_quarter", "ACNet, branch scales of a quarter of the batch"),
        Variant("acb_share_sixteenth", "ACNet, branch scales of a sixteenth of the batch"),
        Variant("acb_late_fuse", "ACNet, fused after half of the epochs"),
        Variant("acb_late_fuse_fifth", "ACNet, fused after a fifth of the epochs"),
    ),
    recipes={"cosine": CIFAR_RECIPES["cosine"]},
    measures=(TOP1,),
    layout="variants",
    costs=True,
    claims=(
        "The article has one batch norm after the sum as an ablation (Table 4): below the full block, above the plain "
        "network. Of the others it says nothing.",
    ),
)
