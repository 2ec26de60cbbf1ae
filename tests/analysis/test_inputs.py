"""What a network takes of a batch of any form."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acnet_pl.analysis import labels_of, network_inputs
from acnet_pl.analysis.inputs import sample_count

IMAGE, OTHER, LABEL = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4), torch.tensor([0, 1])


class One(nn.Module):
    def forward(self, features: Tensor, scale: float = 1.0) -> Tensor:
        return features * scale


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


@dataclass
class Sample:
    x: Tensor
    y: Tensor


Pair = namedtuple("Pair", ["left", "right", "label"])


@pytest.mark.parametrize(
    ("network", "batch", "how", "expected"),
    [
        (One(), IMAGE, None, IMAGE),
        (One(), (IMAGE, LABEL), None, IMAGE),
        (One(), [IMAGE, LABEL, OTHER], None, IMAGE),
        (One(), {"label": LABEL, "features": IMAGE}, None, {"features": IMAGE}),
        (One(), {"label": LABEL, "features": IMAGE, "scale": 2.0}, None, {"features": IMAGE, "scale": 2.0}),
        (One(), {"image": IMAGE, "label": LABEL}, None, IMAGE),
        (One(), Sample(IMAGE, LABEL), None, IMAGE),
        (One(), ({"features": IMAGE}, LABEL), None, {"features": IMAGE}),
        (One(), ([IMAGE[0], IMAGE[1, :, :2]], LABEL), None, ([IMAGE[0], IMAGE[1, :, :2]],)),
        (Two(), ((IMAGE, OTHER), LABEL), None, (IMAGE, OTHER)),
        (Two(), [[IMAGE, OTHER], LABEL], None, (IMAGE, OTHER)),
        (Two(), (IMAGE, OTHER, LABEL), None, (IMAGE, OTHER)),
        (Two(), Pair(IMAGE, OTHER, LABEL), None, {"left": IMAGE, "right": OTHER}),
        (One(), {"a": IMAGE, "b": OTHER}, "b", OTHER),
        (One(), Sample(IMAGE, LABEL), "x", IMAGE),
        (Two(), {"a": IMAGE, "b": OTHER}, lambda batch: (batch["a"], batch["b"]), (IMAGE, OTHER)),
        (One(), IMAGE, lambda batch: {"features": batch}, {"features": IMAGE}),
    ],
)
def test_the_input_is_found(network: nn.Module, batch: Any, how: Any, expected: Any) -> None:
    torch.testing.assert_close(network_inputs(network, batch, how), expected, rtol=0, atol=0)
    assert sample_count(network_inputs(network, batch, how)) == 2


@pytest.mark.parametrize(
    ("network", "batch", "how", "message"),
    [
        (One(), {"a": IMAGE, "b": LABEL}, None, "a dict with a, b; say it with `inputs`"),
        (One(), {"x": IMAGE, "image": OTHER}, None, "cannot tell"),  # two candidates
        (Two(), {"left": IMAGE, "image": OTHER}, None, "cannot tell"),
        (One(), "text", None, "a str"),
        (One(), (), None, "a tuple of nothing"),
        (One(), {"image": IMAGE}, "pixels", "`inputs` is 'pixels', but the batch is a dict with image"),
        (One(), (IMAGE, LABEL), "image", "`inputs` is 'image', but the batch is a tuple of Tensor, Tensor"),
    ],
)
def test_what_cannot_be_told_is_an_error(network: nn.Module, batch: Any, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_inputs(network, batch, how)


@pytest.mark.parametrize(
    ("batch", "known"),
    [
        ((IMAGE, LABEL), True),
        ({"image": IMAGE, "target": LABEL}, True),
        (Sample(IMAGE, LABEL), True),
        (Pair(IMAGE, OTHER, LABEL), True),
        ((IMAGE, LABEL, OTHER), False),
        ((IMAGE, torch.rand(2, 3)), False),  # soft
        ((IMAGE, torch.zeros(2, 4, 4, dtype=torch.int64)), False),  # masks
        (IMAGE, False),
    ],
)
def test_labels_are_class_indices(batch: Any, known: bool) -> None:
    found = labels_of(batch)
    assert (found is not None) == known
    assert found is None or torch.equal(found, LABEL)
