import pytest
import torch

from acnet_pl.analysis import LOCATIONS, Location, location_mask

BY_HAND: dict[Location, list[str]] = {
    "skeleton": [".x.", "xxx", ".x."],
    "corner": ["x.x", "...", "x.x"],
    "border": ["..x", "..x", "xxx"],
    "top_left": ["xx.", "xx.", "..."],
    "global": ["xxx", "xxx", "xxx"],
}


@pytest.mark.parametrize("where", LOCATIONS)
def test_3x3_by_hand(where: Location) -> None:
    expected = [[character == "x" for character in row] for row in BY_HAND[where]]
    assert location_mask(where, 3).tolist() == expected


@pytest.mark.parametrize("size", [3, 5, 7, 11])
def test_locations_come_in_complementary_pairs(size: int) -> None:
    for line, rest in (("skeleton", "corner"), ("border", "top_left")):
        mask = location_mask(line, size)  # type: ignore[arg-type]
        assert mask.sum() == 2 * size - 1
        assert torch.equal(~mask, location_mask(rest, size))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_kernels_without_a_skeleton_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="odd and at least 3"):
        location_mask("corner", size)


def test_an_unknown_location_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of 'skeleton', 'corner'"):
        location_mask("centre", 3)  # type: ignore[arg-type]
