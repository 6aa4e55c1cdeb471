"""Batches: as large as the rows call for, little padding, one order for one seed."""

from random import Random

import pytest

from tasks.tuning.pod.batches import BatchPlan, RowsByLength, plan_batches

LENGTHS = [Random(seed).randint(10, 500) for seed in range(203)]


def plan(count: int, length: int = 64, **given: int) -> BatchPlan:
    return plan_batches([length] * count, epochs=1, tokens_per_pass=2048, **given)


def order(*, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = RowsByLength(LENGTHS, batch=8, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("rows", "step"), [(1, 1), (100, 4), (320, 10), (100_000, 16)])
def test_few_rows_make_small_steps_and_many_make_steps_of_sixteen(rows: int, step: int) -> None:
    assert plan(rows).rows_per_step == step


def test_long_rows_are_taken_in_several_passes() -> None:
    assert plan(10_000, length=1024) == BatchPlan(rows_per_pass=2, passes_per_step=8, longest=1024)


def test_a_row_longer_than_a_pass_is_taken_alone() -> None:
    assert plan(10_000, length=4096).rows_per_pass == 1


def test_given_sizes_are_kept() -> None:
    kept = plan(10_000, rows_per_pass=3, passes_per_step=5)
    assert (kept.rows_per_pass, kept.passes_per_step) == (3, 5)


def test_a_given_batch_size_is_filled_up_by_accumulation() -> None:
    assert plan(10_000, rows_per_pass=4).passes_per_step == 4


@pytest.mark.parametrize(("rows", "passes"), [(2, 8), (3, 5), (1, 16)])
def test_fewer_rows_a_pass_are_more_passes_to_a_step(rows: int, passes: int) -> None:
    fewer = plan(10_000).with_rows(rows)
    assert (fewer.rows_per_pass, fewer.passes_per_step) == (rows, passes)


def test_every_row_comes_once() -> None:
    assert sorted(order()) == list(range(len(LENGTHS)))


def test_one_seed_gives_one_order_and_each_epoch_another() -> None:
    assert order(seed=3, epoch=1) == order(seed=3, epoch=1)
    assert order(seed=3, epoch=1) != order(seed=3, epoch=2)
    assert order(seed=3) != order(seed=4)


def test_little_is_padded() -> None:
    padded = sum(max(LENGTHS[n] for n in batch) * len(batch) for batch in _batches())
    assert padded < 1.06 * sum(LENGTHS)


def test_batches_do_not_come_in_the_order_of_their_length() -> None:
    longest = [max(LENGTHS[n] for n in batch) for batch in _batches()]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def _batches() -> list[tuple[int, ...]]:
    rows = order()
    return [tuple(rows[start : start + 8]) for start in range(0, len(rows), 8)]
