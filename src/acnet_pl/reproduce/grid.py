"""Definition of a table or figure: models, variants, seeds, recipes and published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from acnet_pl.reproduce import TARGETS

__all__ = ["Dataset", "Grid", "Measure", "Model", "Published", "Recipe", "Run", "Selection", "Variant", "load_grid"]

Selection = Literal["last", "best"]
Layout = Literal["pairs", "variants"]


@dataclass(frozen=True)
class Dataset:
    """Data set of one of the article's tables.

    Attributes:
        title: Its name.
        class_name: Name of the data module that has it.
        train_images: Training images of the article's protocol, for the estimate of costs.
        num_classes: Classes.
        image_shape: ``(C, H, W)`` that networks are given.
        prefix: Prefix of the names of runs.
        overlay: Configuration laid over a recipe to choose this data set, if any.
        holdout: Options that split validation images off the training images; None where it cannot be done.
    """

    title: str
    class_name: str
    train_images: int
    num_classes: int
    image_shape: tuple[int, int, int]
    prefix: str = ""
    overlay: str | None = None
    holdout: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Model:
    """Network, with the key that ``--models`` and recipes use, and the article's name."""

    key: str
    title: str


@dataclass(frozen=True)
class Variant:
    """Kind of convolution: a file of experiments/conv, and its title in tables."""

    key: str
    title: str

    @property
    def is_plain(self) -> bool:
        """Return True for the variant without blocks."""
        return self.key == "plain"


@dataclass(frozen=True)
class Recipe:
    """Training protocol.

    Attributes:
        title: Title, in a few words.
        pattern: Configuration of a model, with ``{model}`` for its key.
        block: Configuration laid over every variant that has blocks, if any.
    """

    title: str
    pattern: str
    block: str | None = None


@dataclass(frozen=True)
class Measure:
    """Figure of a finished run, by its place in summary.json."""

    key: str
    title: str


@dataclass(frozen=True)
class Published:
    """Published figures in percent, with their protocol.

    Attributes:
        source: Who published them.
        recipe: Name of the recipe that is (nearest to) their protocol.
        values: Figures by model, variant and measure.
    """

    source: str
    recipe: str
    values: Mapping[tuple[str, str, str], float]


@dataclass(frozen=True)
class Run:
    """One training: ``fit`` with these configurations and options.

    Attributes:
        name: Name of the run and its folder, the same in every table that has it.
        model: Key of the model.
        variant: Key of the variant.
        seed: Of weights, data order and augmentation; the same for a plain net and its ACNet.
        configs: Files of experiments/.
        options: Further options of ``fit`` that belong to the protocol.
    """

    name: str
    model: str
    variant: str
    seed: int
    configs: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Table or figure.

    Attributes:
        name: Name that ``reproduce`` takes.
        title: Heading of the report.
        data: The article's data.
        models: Rows.
        variants: Variants to compare; the first is the baseline.
        recipes: Recipes by name; the first is the article's.
        measures: Figures to report, the first with its paired difference.
        layout: "pairs" has a row per model with plain and ACNet side by side, "variants" a row per variant.
        published: Figures to show beside.
        claims: What the article says in words, for figures without printed numbers.
        analyses: What is computed on the trained networks, by the names of modules in `acnet_pl.reproduce.analyses`.
        costs: Whether the report says what training costs, against the plain network.
        pruned: The variants whose networks are pruned, which takes long; None for all.
    """

    name: str
    title: str
    data: Dataset
    models: tuple[Model, ...]
    variants: tuple[Variant, ...]
    recipes: Mapping[str, Recipe]
    measures: tuple[Measure, ...]
    layout: Layout = "pairs"
    published: tuple[Published, ...] = ()
    claims: tuple[str, ...] = ()
    analyses: tuple[str, ...] = ()
    costs: bool = False
    pruned: tuple[Variant, ...] | None = None

    def prunes(self, run: Run) -> bool:
        """Return True if this grid has Fig. 5's curves of a run."""
        chosen = self.variants if self.pruned is None else self.pruned
        return "pruning" in self.analyses and run.variant in {variant.key for variant in chosen}

    def runs(self, recipe: str, seeds: Sequence[int], selection: Selection = "last") -> Iterator[Run]:
        """Yield the runs seed by seed, plain network and ACNet after each other, so that pairs finish early.

        Args:
            recipe: Name of one of `recipes`.
            seeds: Seeds of each model and variant.
            selection: "last" reports the last epoch's weights, as the article; "best" those that do best on images
                held out of the training set.

        Raises:
            ValueError: There is no such recipe, or there are no images to select by.
        """
        if recipe not in self.recipes:
            raise ValueError(f"{self.name} has no recipe {recipe!r}; choose among {', '.join(self.recipes)}")
        options: tuple[str, ...] = ()
        if selection == "best":
            if self.data.holdout is None:
                raise ValueError(
                    f"{self.name}: --select best needs validation images apart from the test images, which "
                    f"{self.data.title} does not have here; use --select last"
                )
            options = ("--checkpoint.monitor", "val/top1", "--checkpoint.mode", "max", *self.data.holdout)
        protocol = self.recipes[recipe]
        for seed in seeds:
            for model in self.models:
                config = protocol.pattern.format(model=model.key)
                for variant in self.variants:
                    configs = [config, f"conv/{variant.key}.yaml"]
                    if self.data.overlay:
                        configs.insert(1, self.data.overlay)
                    if protocol.block and not variant.is_plain:
                        configs.append(protocol.block)
                    suffix = "-best" if selection == "best" else ""
                    name = f"{self.data.prefix}{Path(config).stem}-{variant.key}-seed{seed}{suffix}"
                    yield Run(name, model.key, variant.key, seed, tuple(configs), options)


def load_grid(name: str) -> Grid:
    """Return a grid by its name, one of `TARGETS`."""
    grid = import_module(TARGETS[name]).GRID
    assert isinstance(grid, Grid)
    return grid
