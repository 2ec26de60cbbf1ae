"""TrainingSampler and TrainingLoader by themselves: resumption, also on another number of processes."""

import os
import pickle
import signal
from collections.abc import Sequence
from itertools import islice

import pytest
import torch

from acnet_pl.data.errors import DataError
from acnet_pl.data.images import Batch, InMemoryImages
from acnet_pl.data.training_loader import TrainingLoader, TrainingSampler
from acnet_pl.data.workers import worker_count

N = 48


class Deadly(InMemoryImages):
    """Its worker process is killed, as a machine short of memory does it."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_an_error_that_says_so() -> None:
    data = Deadly(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(DataError, match=r"was ended from outside .*--data\.num_workers"):
        next(iter(TrainingLoader(data, batch_size=2, num_workers=1)))


def test_there_are_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5}, raising=False)
    assert [worker_count(asked) for asked in (0, 1, 2, 8)] == [0, 1, 2, 2]


def sampler(world_size: int = 1, rank: int = 0, epoch: int = 2) -> TrainingSampler:
    data = InMemoryImages(torch.zeros(N, 1, 1, 1, dtype=torch.uint8), torch.arange(N))
    made = TrainingSampler(data, num_replicas=world_size, rank=rank, seed=7, drop_last=True)
    made.set_epoch(epoch)
    return made


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_resumes_on_any_number_of_processes(before: int, after: int) -> None:
    taken = 24 // before
    saved = sampler(before)
    assert len(list(islice(saved, taken))) == taken
    rest = []
    for rank in range(after):
        resumed = sampler(after, rank)
        resumed.load_state_dict(pickle.loads(pickle.dumps(saved.state_dict())))
        rest.append(list(resumed))
    dealt = [index for step in zip(*rest, strict=True) for index in step]
    assert dealt == list(sampler())[24:]


def test_state_serves_one_pass_of_its_own_epoch() -> None:
    saved = sampler(epoch=2)
    list(islice(saved, 10))
    other, same = sampler(epoch=3), sampler(epoch=2)
    for resumed in (other, same):
        resumed.load_state_dict(saved.state_dict())
    assert len(list(other)) == N
    assert [len(list(same)), len(list(same))] == [N - 10, N]


def test_state_at_the_end_leaves_nothing_of_the_epoch() -> None:
    saved, resumed = sampler(), sampler()
    list(saved)
    resumed.load_state_dict(saved.state_dict())
    assert list(resumed) == []
    resumed.set_epoch(3)
    assert len(list(resumed)) == N


def test_loader_saves_where_it_stands() -> None:
    def loader() -> TrainingLoader:
        order = sampler()
        assert isinstance(order.dataset, InMemoryImages)
        return TrainingLoader(
            order.dataset, batch_size=8, sampler=order, drop_last=True, collate_fn=lambda batch: batch
        )

    first, second = loader(), loader()
    whole = [labels.tolist() for _, labels, _ in loader()]
    begun = [labels.tolist() for _, labels, _ in islice(first, 4)]
    second.load_state_dict(first.state_dict())
    assert begun + [labels.tolist() for _, labels, _ in second] == whole
