"""Fig. 6: the average kernel magnitude matrix of ResNet-56: plain, ACNet, and the border variant."""

from dataclasses import replace

from acnet_pl.reproduce.grids import fig5

__all__ = ["GRID"]

# The same trained networks as Fig. 5's.
GRID = replace(
    fig5.GRID,
    name="fig6",
    title="Fig. 6: average kernel magnitude of ResNet-56 on CIFAR-10",
    claims=(
        "Plain: the central point has the largest magnitude, the four corners the smallest (Fig. 6a).",
        "ACNet: corners below 0.400, skeleton above 0.666, centre 1.000 in every layer (Fig. 6b).",
        "Border variant: the border is enhanced too, but less than ACBs enhance the skeleton (Fig. 6c).",
    ),
    analyses=("magnitude",),
)
