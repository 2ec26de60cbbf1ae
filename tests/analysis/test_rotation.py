from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score  # type: ignore[import-untyped]
from torch import Tensor, nn

from acnet_pl.analysis import TRANSFORMS, RotationAccuracy, RotationMetric, rotation_accuracy, rotation_logits

Batches = list[tuple[Tensor, Tensor]]

BY_HAND = {  # of [[1, 2, 3], [4, 5, 6]], written down by looking at it
    "original": [[1, 2, 3], [4, 5, 6]],
    "rotate_90": [[3, 6], [2, 5], [1, 4]],  # counter-clockwise: the right column becomes the top row
    "rotate_180": [[6, 5, 4], [3, 2, 1]],
    "flip_up_down": [[4, 5, 6], [1, 2, 3]],
}
NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "original": lambda x: x,
    "rotate_90": lambda x: np.rot90(x, 1, axes=(2, 3)),
    "rotate_180": lambda x: np.rot90(x, 2, axes=(2, 3)),
    "flip_up_down": lambda x: x[:, :, ::-1],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_by_hand(name: str) -> None:
    image = torch.tensor([[1, 2, 3], [4, 5, 6]])
    images = torch.stack([image, image + 10])[None]
    expected = torch.tensor(BY_HAND[name])
    assert torch.equal(TRANSFORMS[name](images), torch.stack([expected, expected + 10])[None])


def test_accuracies_are_scikit_learns(batches: Batches) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 10 * 10, 7))
    images = np.concatenate([images.numpy() for images, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    result = rotation_accuracy(net, batches, topk=(1, 3))
    assert list(result.accuracy) == list(NUMPY)
    for name, transform in NUMPY.items():
        with torch.no_grad():
            scores = net(torch.from_numpy(transform(images).copy())).numpy()
        for k in (1, 3):
            expected = top_k_accuracy_score(labels, scores, k=k, labels=range(7))
            assert result.accuracy[name][k] == pytest.approx(expected), (name, k)
    assert len(set(result.as_dict().values())) > 3  # the transforms do make a difference


def test_one_pass_is_enough(small_net: Callable[[], nn.Module], batches: Batches) -> None:
    net = small_net().train()
    assert rotation_accuracy(net, iter(batches)) == rotation_accuracy(net, batches)
    assert all(module.training for module in net.modules())


def test_non_square_images_need_a_model_of_any_size(small_net: Callable[[], nn.Module]) -> None:
    batch = torch.randn(4, 3, 8, 12), torch.randint(7, (4,))
    assert rotation_accuracy(small_net(), [batch]).samples == 4
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3), nn.Flatten(), nn.Linear(4 * 2 * 4, 7))
    assert fixed(batch[0]).shape == (4, 7)
    narrow = nn.Sequential(nn.AvgPool2d((8, 3)), nn.Flatten(), nn.Linear(3 * 4, 7))
    with pytest.raises(ValueError, match="fails on 12×8, rotated by 90°: use square images"):
        rotation_accuracy(narrow, [batch])


def test_other_failures_of_the_model_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="3 channels"):
        rotation_logits(nn.Conv2d(1, 1, 1), torch.zeros(1, 3, 4, 6))


def test_two_processes_together_are_one_that_saw_everything() -> None:
    data = [({name: torch.randn(n, 6) for name in TRANSFORMS}, torch.randint(6, (n,))) for n in (6, 3, 4)]
    remote: list[Tensor] = []
    alone, other = RotationMetric(), RotationMetric()
    mine = RotationMetric(
        dist_sync_fn=lambda value, group=None: [value, remote.pop(0)], distributed_available_fn=lambda: True
    )
    for index, batch in enumerate(data):
        alone.update(*batch)
        (mine if index < 2 else other).update(*batch)
    remote[:] = [getattr(other, name) for name in other._reductions]
    assert mine.result() == alone.result()
    remote[:] = [getattr(other, name) for name in other._reductions]
    assert {name: float(value) for name, value in mine.compute().items()} == pytest.approx(alone.result().as_dict())


@pytest.mark.parametrize("topk", [(), (0, 5)])
def test_senseless_ks_are_refused(topk: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="each at least 1"):
        RotationMetric(topk)


def test_no_images_are_refused(small_net: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="no images"):
        rotation_accuracy(small_net(), [])


def test_it_prints_the_columns_of_table_4() -> None:
    result = RotationAccuracy(50, {name: {1: 0.7036, 5: 0.9} for name in TRANSFORMS})
    header, top1, top5 = str(result).splitlines()
    assert header.split("  ")[0] == "50 images"
    assert [cell.strip() for cell in header.split("  ") if cell.strip()][1:] == [
        "Original input",
        "Rotate 90°",
        "Rotate 180°",
        "Up-down flip",
    ]
    assert top1.split() == ["Top-1", "(%)", *["70.36"] * 4]
    assert top5.split() == ["Top-5", "(%)", *["90.00"] * 4]
    assert len(header) == len(top1) == len(top5)
    assert result.as_dict()["rotate_90/top5"] == 0.9
