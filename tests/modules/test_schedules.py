import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from acnet_pl.modules import CosineSchedule, StaircaseSchedule


def factors(schedule, steps_per_epoch, epochs):
    return [schedule.factor(step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs + 1)]


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = CosineAnnealingLR(optimizer, T_max=35)
    for factor in factors(CosineSchedule(), 7, 5):
        assert factor == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def test_staircase_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = MultiStepLR(optimizer, milestones=[14, 21], gamma=0.2)
    for factor in factors(StaircaseSchedule([2, 3], gamma=0.2), 7, 5):
        assert factor == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", [CosineSchedule(2), StaircaseSchedule([3], warmup_epochs=2)])
def test_warmup_rises_linearly_to_one(schedule):
    warmup = factors(schedule, 10, 5)[:21]
    assert warmup[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert warmup[20] == pytest.approx(1.0)


@settings(deadline=None, derandomize=True)
@given(warmup=st.floats(0, 3), epochs=st.integers(4, 9), steps=st.integers(1, 20))
def test_cosine_stays_in_range_ends_at_zero_and_never_rises_after_the_warmup(warmup, epochs, steps):
    values = factors(CosineSchedule(warmup), steps, epochs)
    assert all(0 <= value <= 1 for value in values)
    assert values[-1] == pytest.approx(0, abs=1e-12)
    after = values[math.ceil(warmup * steps) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"milestones.*ascend"):
        StaircaseSchedule([3, 2])
    with pytest.raises(ValueError, match=r"warmup_epochs.*-1"):
        CosineSchedule(-1)
