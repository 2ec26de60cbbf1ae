"""Base class of the analyses of a grid's trained networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acnet_pl.reproduce import ANALYSES
from acnet_pl.reproduce.elements import Figure

if TYPE_CHECKING:
    from acnet_pl.reproduce.grid import Grid
    from acnet_pl.reproduce.plan import PlannedRun
    from acnet_pl.reproduce.results import GridResult

__all__ = ["Analysis", "load_analysis"]


class Analysis(ABC):
    """An analysis of the trained networks of a grid, and its figure in the report.

    A module of `acnet_pl.reproduce.analyses`, or one that an entry point ``acnet_pl.analyses`` names, has an instance
    called ``ANALYSIS``. Grids name it in `Grid.analyses`; ``reproduce --analyses`` adds it to any grid.
    """

    def is_due(self, grid: Grid, run: PlannedRun, folder: Path, draws: int) -> bool:
        """Return True if `compute` has something to do for a finished run.

        Args:
            grid: The grid that has the run.
            run: The run.
            folder: Its folder.
            draws: Random repetitions, for an analysis that has them.
        """
        return False

    def compute(self, run: PlannedRun, folder: Path, draws: int) -> None:
        """Compute the slow part and store it in the run's folder; needed only if `is_due` may return True."""
        raise NotImplementedError(f"{type(self).__name__} is due for {run.run.name}, and has no `compute`")

    @abstractmethod
    def collect(self, result: GridResult) -> Mapping[tuple[str, str], Any]:
        """Return the results of a grid's finished runs, by model and variant."""

    @abstractmethod
    def as_json(self, found: Any) -> Any:
        """Return one value of `collect` as results.json holds it."""

    @abstractmethod
    def figure(self, result: GridResult, found: Mapping[tuple[str, str], Any]) -> Figure:
        """Return the figure of the report.

        Args:
            result: The grid.
            found: Result of `collect`, if that is not empty.
        """


def load_analysis(name: str) -> Analysis:
    """Return an analysis by its name, one of `ANALYSES`."""
    analysis = import_module(ANALYSES[name]).ANALYSIS
    assert isinstance(analysis, Analysis)
    return analysis
