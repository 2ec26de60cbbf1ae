"""PredictionWriter with other people's modules: what it cannot write is an error, never a table of something else."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from tests.people import CLASSES, Own, trainer, tuples
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from acnet_pl.callbacks import PredictionWriter

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = tuples(5)[0]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(IMAGES)


def predict(folder: Any, answer: Any, *loaders: DataLoader[Any]) -> list[dict[str, str]]:
    """The rows that are written where ``predict_step`` returns what ``answer`` makes of the logits."""

    class Module(Own):
        def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return answer(self.model(batch))

    torch.manual_seed(0)
    trainer(folder, PredictionWriter()).predict(Module(), list(loaders) or DataLoader(Stream(), 2))
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda logits: logits, "no distributions"),
        (lambda logits: logits * torch.nan, "no distributions"),
        (lambda logits: {"logits": logits}, "a dict"),
        (lambda logits: logits.argmax(1), "int64"),
        (lambda logits: logits[:, :, None].softmax(1), rf"\(2, {CLASSES}, 1\)"),
        (lambda _: None, "a NoneType"),
    ],
)
def test_anything_but_probabilities_is_refused(tmp_path, answer, what):
    with pytest.raises(ValueError, match=what):
        predict(tmp_path, answer)
    assert not (tmp_path / "predictions.csv").exists()


def test_a_stream_of_images_is_numbered(tmp_path):
    assert [row["index"] for row in predict(tmp_path, lambda x: x.softmax(1))] == ["0", "1", "2", "3", "4"]


def test_several_loaders_are_told_apart(tmp_path):
    one, two = DataLoader(list(IMAGES), 2), DataLoader(list(IMAGES[3:]), 2)
    rows = predict(tmp_path, lambda x: x.softmax(1), one, two)
    assert [(row["loader"], row["index"]) for row in rows] == [
        *(("0", str(i)) for i in range(5)),
        ("1", "0"),
        ("1", "1"),
    ]
    assert [row["p(0)"] for row in rows[5:]] == [row["p(0)"] for row in rows[3:5]]
