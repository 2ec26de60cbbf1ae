from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acnet_pl.data.shard_order import shard_order

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(SIZES, st.integers(0, 2**62), st.integers(0, 300), st.integers(1, 50))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(
    sizes: list[int], seed: int, epoch: int, block: int
) -> None:
    order = shard_order(sizes, seed, epoch, block=block)
    assert torch.equal(order.sort().values, torch.arange(sum(sizes)))
    assert torch.equal(order, shard_order(sizes, seed, epoch, block=block))


def test_epochs_and_seeds_have_unrelated_orders() -> None:
    sizes = [50] * 128
    orders = [shard_order(sizes, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    positions = [order.argsort().double() for order in orders]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        correlation = torch.corrcoef(torch.stack([positions[a], positions[b]]))[0, 1]
        assert abs(float(correlation)) < 0.06  # 6,400 samples: a standard deviation of 0.0125


def test_processes_read_shards_of_their_own_and_few_at_a_time() -> None:
    sizes, block = [60] * 512, 120
    order = shard_order(sizes, 0, 0, block=block)
    shards = order // 60
    for world_size in (2, 4, 8, 64):
        shares = [shards[rank::world_size] for rank in range(world_size)]
        owners = [set(share.tolist()) for share in shares]
        assert sum(map(len, owners)) <= 512 + 64  # a shard at the border of two lanes is read by both
        window = shares[0][: 64 // world_size * block]
        assert len(set(window.tolist())) <= 64 // world_size * 3


def test_a_block_of_samples_is_well_mixed() -> None:
    """Neighbours in a lane are seldom neighbours in a shard."""
    order = shard_order([500] * 64, 0, 0, block=2048, lanes=1)
    steps = (order[1:] - order[:-1]).abs()
    assert float((steps == 1).double().mean()) < 0.01
