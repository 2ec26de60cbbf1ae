"""InMemoryImages and the stratified order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from acnet_pl.data.images import Batch, InMemoryImages, stratified_order


def numbered(n: int) -> InMemoryImages:
    images = torch.randint(0, 256, (n, 4, 5, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return InMemoryImages(images, torch.arange(n) % 3)


def test_batch_is_the_images_one_by_one() -> None:
    data = numbered(10)
    images, labels, indices = data.__getitems__([9, 0, 0, 4])
    one_by_one = [data[i] for i in (9, 0, 0, 4)]
    assert torch.equal(images, torch.stack([image for image, _, _ in one_by_one]))
    assert torch.equal(labels, torch.stack([label for _, label, _ in one_by_one]))
    assert torch.equal(indices, torch.stack([index for _, _, index in one_by_one]))
    assert indices.dtype == torch.int64


def test_works_with_a_dataloader_of_ones_own() -> None:
    loader: DataLoader[Batch] = DataLoader(numbered(10), batch_size=4, collate_fn=lambda batch: batch)
    assert [len(images) for images, _, _ in loader] == [4, 4, 2]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(3, 4, 4, 3),
            torch.zeros(3, dtype=torch.int64),
            r"uint8 of shape \(N, H, W, C\), got torch.float32",
        ),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"got torch.uint8 of \(3, 4, 4\)"),
        (torch.zeros(3, 4, 4, 3, dtype=torch.uint8), torch.zeros(3), r"int64 of shape \(3,\).* got torch.float32"),
        (torch.zeros(3, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"of shape \(3,\).*\(2,\)"),
    ],
)
def test_wrong_tensors_are_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InMemoryImages(images, labels)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 100), st.data())
def test_pieces_of_the_order_are_stratified(classes: list[int], seed: int, data: st.DataObject) -> None:
    labels = torch.tensor(classes)
    order = stratified_order(labels, seed)
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    cut = data.draw(st.integers(0, len(labels)))
    got = labels[order[:cut]].bincount(minlength=5)
    share = labels.bincount(minlength=5) * cut / len(labels)
    assert (got - share).abs().max() <= 2.5  # rounding, of five classes at the worst


def test_order_depends_on_the_seed() -> None:
    labels = torch.arange(1000) % 10
    assert torch.equal(stratified_order(labels, 1), stratified_order(labels, 1))
    assert (stratified_order(labels, 1)[:100].sort().values != stratified_order(labels, 2)[:100].sort().values).any()
