"""What the chief of parameter servers hands out, and when it writes a checkpoint."""

from __future__ import annotations

from collections import Counter

import pytest

from mlpipeline.learning.training.parameter_server import Piece, schedule, until_checkpoint
from mlpipeline.store.schemas.dataset import Shard

SHARDS = [Shard(index, f"shard-{index}", count, "") for index, count in enumerate((40, 35, 30, 5))]
STEPS = {0: 4, 1: 4, 2: 3, 3: 1}  # of 10 images


def pieces(epochs: int = 3, seed: int = 1) -> list[Piece]:
    return schedule(SHARDS, epochs=epochs, batch_size=10, seed=seed)


def test_every_epoch_has_every_shard_once() -> None:
    handed_out = Counter((piece.epoch, piece.shard.index) for piece in pieces())
    assert handed_out == Counter((epoch, index) for epoch in range(3) for index in range(4))
    assert [piece.epoch for piece in pieces()] == [0] * 4 + [1] * 4 + [2] * 4


def test_steps_are_numbered_without_a_gap() -> None:
    step = 0
    for piece in pieces():
        assert piece.begin == step
        assert piece.end - piece.begin == STEPS[piece.shard.index]
        step = piece.end
    assert step == 3 * sum(STEPS.values())


def test_the_order_of_the_shards_depends_on_seed_and_epoch_alone() -> None:
    assert pieces() == pieces()
    assert pieces(2) == pieces(3)[:8], "a longer run begins as a shorter one"
    orders = [
        tuple(piece.shard.index for piece in pieces(seed=seed) if piece.epoch == epoch)
        for seed in range(5)
        for epoch in range(3)
    ]
    assert len(set(orders)) > 5


@pytest.mark.parametrize(
    ("interval", "sizes"),
    [
        (1, [1] * 8),
        (100, [4, 4]),  # never beyond the end of an epoch
        (12, [4, 4]),
    ],
)
def test_a_checkpoint_is_due_after_an_interval_and_at_the_end_of_an_epoch(
    interval: int, sizes: list[int]
) -> None:
    assert [len(group) for group in _groups(pieces(2), interval)] == sizes


@pytest.mark.parametrize("interval", range(1, 14))
def test_between_two_checkpoints_is_one_interval_and_what_the_last_piece_has_more(
    interval: int,
) -> None:
    all_pieces = pieces()
    groups = _groups(all_pieces, interval)
    assert [piece for group in groups for piece in group] == all_pieces
    for group in groups:
        assert group[-1].begin - group[0].begin < interval
        ends_epoch = group[-1].end % sum(STEPS.values()) == 0
        assert ends_epoch or group[-1].end - group[0].begin >= interval


def _groups(ahead: list[Piece], interval: int) -> list[list[Piece]]:
    groups = []
    while ahead:
        groups.append(until_checkpoint(ahead, interval))
        ahead = ahead[len(groups[-1]) :]
    return groups
