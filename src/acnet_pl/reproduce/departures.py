"""List where the recipes differ from the article and the authors' code."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from acnet_pl.reproduce.grid import Grid

__all__ = ["standing_departures"]

_ALWAYS = (
    "Last epoch: the article does not say which epoch its accuracies are of, and the authors' log script averages the "
    "last five evaluations; here the last epoch's weights are tested, unless --select says otherwise.",
    "Initial weights: kernels and fully connected layers are drawn as PyTorch draws them, as in the authors' code; the "
    "article says nothing. Results under the Kaiming fan-out draw (draw: fan_out) are not comparable.",
)
_NORMALISED = (
    "Images: normalised by mean and standard deviation of the training images; the authors' code has (0.5, 0.5, 0.5), "
    "and the article says nothing."
)
_BY_RECIPE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("CIFAR", "article"): (
        _NORMALISED,
        "Schedule: the article gives learning rates, but neither the epochs of its steps nor batch size and weight "
        "decay. Steps, epochs and batches of 64 are those of the authors' older code, weight decay 1e-4 unless the "
        "recipe says otherwise.",
        "1-D kernels have 3 weights on 5×5 kernels too, as the article's text and the authors' code until July 2020.",
        "γ: 1 in every branch (ablations/article_block.yaml; conv/acb.yaml alone has 1/3). The article does not give "
        "it. The authors' older code leaves it as PyTorch has it: 0 to 1 at random in PyTorch 1.1, which it names, 1 "
        "in later ones.",
        "Biases: at the learning rate of the weights; the authors' older code doubles it, batch norms' β too.",
    ),
    ("CIFAR", "cosine"): (
        _NORMALISED,
        "1-D kernels on 5×5 kernels have 5 weights, as the authors' code since July 2020; the article's text has 3.",
        "γ: 1/3 in the article's block, as the authors' later code but for WRN-16-8; the article does not give it.",
    ),
    ("ImageNet", "article"): (
        "Schedule: the article gives 150 epochs and batches of 256, but not the epochs of its steps, which are ours, "
        "nor the weight decay, here 1e-4 as in the authors' later code.",
        "Augmentation: random crop and scale, flip and colour shift; the article's bounding-box "
        "distortion needs boxes.",
        "Biases: at the learning rate of the weights; the authors' code doubles it, batch norms' β too.",
    ),
    ("ImageNet", "cosine"): (
        "Schedule: the authors' later code, of which a figure is known for ResNet-18 alone; weight decay 1e-4.",
        "Augmentation: random crop and scale, flip and colour shift (0.4). The colour shift is not the authors': their "
        "code has crop, scale and flip alone (--data.color 0).",
    ),
}
_WRN = (
    "WRN-16-8: a projection shares the batch norm and ReLU of its block, and a ReLU follows the last batch norm; in "
    "the authors' code a projection has its own batch norm and ReLU, and no ReLU follows the last."
)
_BY_MODEL: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("cifar_quick", "article"): ("Cifar-quick: learning rate 0.1 as the article; the authors' older code has 0.05.",),
    ("resnet56", "article"): ("ResNet-56: 1×1 projection shortcuts, as the authors' code; the article says nothing.",),
    ("resnet56", "cosine"): ("ResNet-56: 1×1 projection shortcuts, as the authors' code; the article says nothing.",),
    ("resnet20", "cosine"): ("ResNet-20: neither the article nor the authors' code has it; 1×1 projection shortcuts.",),
    ("wrn16_8", "article"): (
        "WRN-16-8: batches of 128 and the schedule of its own article, as the article says.",
        "WRN-16-8: the authors' code has a batch norm after the block's own.",
        _WRN,
    ),
    ("wrn16_8", "cosine"): (
        "WRN-16-8: γ is 1/3 in every block; the authors' code has 1 but for the stem, and a batch "
        "norm after the block's own.",
        _WRN,
    ),
    ("densenet40", "article"): (
        "DenseNet-40: the authors have published no code for it; epochs and steps are those of ResNet-56.",
    ),
    ("densenet40", "cosine"): ("DenseNet-40: the authors have published no code for it; this schedule is ours.",),
    ("densenet121", "article"): (
        "DenseNet-121: the article contradicts itself. Its text has a gain of 1.18 points, its Table 3 one of 0.67 "
        "(75.15 to 75.82); the table's is shown here.",
    ),
}
_BY_GRID: Mapping[str, str] = {
    "table4": "Output scale: with γ = 1 in every branch a new block starts at 1.41 times the output scale of a plain "
    "layer with one 1-D branch, at 1.73 times with both, and at 1 with one batch norm after the sum. Structure and "
    "scale differ together; the article does not give γ.",
    "ablations": "Output scale: a new block starts at 0.58 times the output scale of a plain layer, with one 1-D "
    "branch too (γ = 1/√6), but at 1 with one batch norm after the sum: there structure and scale differ together.",
}


# What is said of an option holds where the user has not changed it; then the changed settings say it.
_OF_OPTION: Mapping[str, str] = {"draw": "Initial weights:", "gamma_init": "γ"}


def standing_departures(grid: Grid, recipe: str, changed: Collection[str] = ()) -> Iterator[str]:
    """Yield how a grid's runs differ from the article or the authors' code, beyond the user's options.

    Args:
        grid: The grid.
        recipe: Name of its recipe.
        changed: Dotted names of the options that the user changed; what is said of them by default is left out.
    """
    own = tuple(start for name, start in _OF_OPTION.items() if any(name == one.rpartition(".")[2] for one in changed))
    yield from (said for said in _all(grid, recipe) if not (own and said.startswith(own)))


def _all(grid: Grid, recipe: str) -> Iterator[str]:
    family = next((name for name in ("CIFAR", "ImageNet") if grid.data.title.startswith(name)), None)
    if family is None:  # not the article's data
        return
    yield from _ALWAYS
    yield from _BY_RECIPE.get((family, recipe), ())
    if grid.name in _BY_GRID:
        yield _BY_GRID[grid.name]
    for model in grid.models:
        yield from _BY_MODEL.get((model.key, recipe), ())
        if model.key == "densenet121" and recipe != "article":
            yield from _BY_MODEL[model.key, "article"]
