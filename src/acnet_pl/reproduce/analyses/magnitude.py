"""Fig. 6: where the kernels of trained networks have their magnitude, as heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acnet_pl.analysis import KernelMagnitude
from acnet_pl.analysis import kernel_magnitude as magnitude_of
from acnet_pl.callbacks.kernels import commonest_kernel_size
from acnet_pl.deploy import load_fused
from acnet_pl.reproduce.analysis import Analysis
from acnet_pl.reproduce.elements import Cell, Figure, Table
from acnet_pl.reproduce.plots import heat_map
from acnet_pl.reproduce.results import GridResult, fused_file

__all__ = ["ANALYSIS"]

_COLUMNS = ("network", "kernels", "skeleton, sum", "skeleton, share", "corners, sum", "border, sum")


class _Magnitude(Analysis):
    def collect(self, result: GridResult) -> Mapping[tuple[str, str], KernelMagnitude]:
        """Return the kernel magnitude of the first finished network of each model and variant."""
        found: dict[tuple[str, str], KernelMagnitude] = {}
        for run in result.runs:
            key = run.planned.run.model, run.planned.run.variant
            path = fused_file(run.folder) if run.summary and run.folder else None
            if key in found or path is None:
                continue
            network = load_fused(path)
            size = commonest_kernel_size(network)
            if size is not None:
                found[key] = magnitude_of(network, size)
        return found

    def as_json(self, found: KernelMagnitude) -> Any:
        return found.as_dict()

    def figure(self, result: GridResult, found: Mapping[tuple[str, str], KernelMagnitude]) -> Figure:
        titles = {key: result.title(*key) for key in found}
        sums = [_sums(titles[key], magnitude) for key, magnitude in found.items()]
        return Figure(
            "Average kernel magnitude A (Eq. 9-10) of the fused networks of the first finished seed: the larger, the "
            "more important the position.",
            [heat_map(magnitude.average, titles[key]) for key, magnitude in found.items()],
            [
                Table("Sums of A over parts of the kernel.", _COLUMNS, sums),
                *(_matrix(titles[key], magnitude) for key, magnitude in found.items()),
            ],
        )


def _sums(title: str, magnitude: KernelMagnitude) -> list[Cell]:
    size = magnitude.kernel_size
    return [
        Cell(title, "label"),
        Cell(f"{size}×{size}, {len(magnitude.layers)} layers", "label"),
        Cell(f"{magnitude.total('skeleton'):.3f}"),
        Cell(f"{magnitude.share('skeleton'):.1%}"),
        Cell(f"{magnitude.total('corner'):.3f}"),
        Cell(f"{magnitude.total('border'):.3f}"),
    ]


def _matrix(title: str, magnitude: KernelMagnitude) -> Table:
    columns = ["row", *(f"column {column + 1}" for column in range(magnitude.kernel_size))]
    rows = [
        [Cell(str(row), "label"), *(Cell(f"{value:.3f}") for value in values)]
        for row, values in enumerate(magnitude.average, 1)
    ]
    return Table(f"A of {title}.", columns, rows)


ANALYSIS = _Magnitude()
