from io import BytesIO

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

from acnet_pl.analysis import (
    LOCATIONS,
    PruningCurve,
    kernel_magnitude,
    plot_kernel_magnitude,
    plot_pruning_curves,
)


def _draws(figure: Figure) -> bool:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue().startswith(b"\x89PNG")


def _curve(where: object, center: float = 0.6) -> PruningCurve:
    return PruningCurve(where, (0.0, 0.2), (0, 1), ((0.9, 0.9), (center - 0.1, center + 0.1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 5])
def test_heat_maps_show_the_numbers_on_one_scale(size: int) -> None:
    magnitudes = [kernel_magnitude(nn.Conv2d(2, 3, size), size) for _ in range(3)]
    figure = plot_kernel_magnitude(*magnitudes, titles=["Normal", "ACNet, skeleton", "ACNet, border"])
    panels = figure.axes[:3]
    assert [ax.get_title() for ax in panels] == ["(a) Normal", "(b) ACNet, skeleton", "(c) ACNet, border"]
    for ax, magnitude in zip(panels, magnitudes, strict=True):
        assert [text.get_text() for text in ax.texts] == [f"{x:.3f}" for row in magnitude.average for x in row]
        np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), magnitude.average)
        assert ax.images[0].get_clim() == (0, 1)
    assert _draws(figure)


def test_a_heat_map_of_one_layer() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3))
    magnitude = kernel_magnitude(net)
    figure = plot_kernel_magnitude(magnitude, titles=["second"], layer="1")
    assert figure.axes[0].get_title() == "second"
    np.testing.assert_array_equal(np.asarray(figure.axes[0].images[0].get_array()), magnitude.layers["1"])


def test_curves_show_mean_and_deviation() -> None:
    curves = [_curve(where) for where in LOCATIONS]
    figure = plot_pruning_curves(curves, curves[:2], titles=["Normal", "ACNet"])
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("(a) Normal", "(b) ACNet")
    assert len(left.lines) == len(left.collections) == 5
    np.testing.assert_allclose(np.asarray(left.lines[0].get_xydata(), dtype=float), [[0, 90], [20, 60]])
    band = left.collections[0].get_paths()[0].vertices
    deviation = 100 * np.std([0.5, 0.7], ddof=1)
    assert {round(y, 6) for x, y in np.asarray(band) if x == 20} == {round(60 + s * deviation, 6) for s in (-1, 1)}
    legend = left.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "mean ± std, n = 2"
    assert [text.get_text() for text in legend.get_texts()] == [where.replace("_", "-") for where in LOCATIONS]
    assert len({to_hex(line.get_color()) for line in left.lines}) == 5
    assert left.get_ylim() == right.get_ylim()
    assert _draws(figure)


def test_bands_stay_between_0_and_100_percent() -> None:
    figure = plot_pruning_curves([_curve("corner", 0.05), _curve("global", 0.99)])
    for band in figure.axes[0].collections:
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert heights.min() >= 0
        assert heights.max() <= 100


def test_wrong_numbers_of_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_kernel_magnitude()
    with pytest.raises(ValueError, match=r"as many `titles` as panels \(1\), or none; got 2"):
        plot_pruning_curves([_curve("corner")], titles=["a", "b"])


def test_figures_belong_to_the_caller_alone() -> None:
    plot_pruning_curves([_curve("corner")])
    plot_kernel_magnitude(kernel_magnitude(nn.Conv2d(2, 3, 3)))
    assert pyplot.get_fignums() == []
