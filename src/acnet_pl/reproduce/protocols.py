"""Data sets, models, recipes and measures that several tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from acnet_pl.reproduce.grid import Dataset, Measure, Model, Recipe, Variant

__all__ = ["ACNET", "CIFAR10", "CIFAR_MODELS", "CIFAR_RECIPES", "IMAGENET", "IMAGENET_RECIPES", "PLAIN", "TOP1", "TOP5"]
__all__ += ["CIFAR100", "pairs"]

_BLOCK = "ablations/article_block.yaml"
_HOLDOUT = ("--data.val_size", "5000")

CIFAR10 = Dataset("CIFAR-10", "CIFARDataModule", 50_000, 10, (3, 32, 32), holdout=_HOLDOUT)
CIFAR100 = Dataset(
    "CIFAR-100", "CIFARDataModule", 50_000, 100, (3, 32, 32), "cifar100-", "data/cifar100.yaml", holdout=_HOLDOUT
)
IMAGENET = Dataset("ImageNet", "ImageNetDataModule", 1_281_167, 1000, (3, 224, 224), "imagenet-")

CIFAR_MODELS = (
    Model("cifar_quick", "Cifar-quick"),
    Model("vgg16", "VGG-16"),
    Model("resnet56", "ResNet-56"),
    Model("wrn16_8", "WRN-16-8"),
    Model("densenet40", "DenseNet-40"),
)

CIFAR_RECIPES: Mapping[str, Recipe] = {
    "article": Recipe("the article's staircase (Sect. 4.1)", "cifar10/{model}_staircase.yaml", _BLOCK),
    "cosine": Recipe("the authors' later cosine recipe", "cifar10/{model}.yaml"),
}
IMAGENET_RECIPES: Mapping[str, Recipe] = {
    "article": Recipe("the article's 150 epochs, staircase (Sect. 4.2)", "imagenet/{model}_staircase.yaml", _BLOCK),
    "cosine": Recipe("the authors' later 100 epochs, cosine", "imagenet/{model}.yaml", _BLOCK),
}

PLAIN = Variant("plain", "plain")
ACNET = Variant("acb", "ACNet")

TOP1 = Measure("rotation/original/top1", "Top-1")
TOP5 = Measure("rotation/original/top5", "Top-5")


def pairs(measure: Measure, rows: Mapping[str, Sequence[float]]) -> dict[tuple[str, str, str], float]:
    """Return published figures by model, variant and measure, from a plain and an ACNet column.

    Examples:
        >>> pairs(TOP1, {"vgg16": (94.12, 94.47)})[("vgg16", "acb", "rotation/original/top1")]
        94.47
    """
    return {
        (model, variant.key, measure.key): value
        for model, values in rows.items()
        for variant, value in zip((PLAIN, ACNET), values, strict=True)
    }
