"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console

from acnet_pl.cli.summary import comparison


def test_accuracies_stand_beside_the_number_of_images() -> None:
    rotation = {"samples": 1300, "original/top1": 0.5, "rotate_90/top1": 0.25}
    screen = io.StringIO()
    Console(file=screen, width=100).print(comparison({"a": {"rotation": rotation}, "b": {}}))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["test images", "1,300", "-"],
        ["test accuracy, fused", "50.00%", "-"],
        ["fused, rotate 90", "25.00%", "-"],
    ]
