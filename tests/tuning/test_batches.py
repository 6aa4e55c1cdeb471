"""Batches: as large as the rows call for, little padding, one order for one seed."""

from random import Random

import pytest

from tasks.tuning.pod.batches import BatchPlan, RowsByLength, SharedRows, plan_batches

LENGTHS = [Random(seed).randint(10, 500) for seed in range(203)]


def plan(count: int, length: int = 64, **given: int) -> BatchPlan:
    return plan_batches([length] * count, epochs=1, tokens_per_pass=2048, **given)


def order(*, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = RowsByLength(LENGTHS, batch=8, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("rows", "step"), [(1, 1), (100, 1), (320, 4), (100_000, 16)])
def test_few_rows_make_small_steps_and_many_make_steps_of_sixteen(rows: int, step: int) -> None:
    assert plan(rows).rows_per_step == step


def test_long_rows_are_taken_in_several_passes() -> None:
    assert plan(10_000, length=1024) == BatchPlan(
        rows_per_step=16, rows_per_pass=2, longest=1024, rows_alike=2
    )


def test_a_row_longer_than_a_pass_is_taken_alone() -> None:
    assert plan(10_000, length=4096).rows_per_pass == 1


def test_given_sizes_are_kept() -> None:
    kept = plan(10_000, rows_per_pass=3, passes_per_step=5)
    assert (kept.rows_per_pass, kept.passes_per_step) == (3, 5)


def test_a_batch_size_that_is_given_alone_is_the_whole_step() -> None:
    assert plan(10_000, rows_per_pass=1).rows_per_step == 1


@pytest.mark.parametrize(("fit", "rows", "passes"), [(2, 2, 8), (3, 2, 8), (1, 1, 16), (15, 8, 2)])
def test_less_memory_means_more_passes_and_the_same_step(fit: int, rows: int, passes: int) -> None:
    fewer = plan(10_000).with_rows(fit)
    assert (fewer.rows_per_pass, fewer.passes_per_step) == (rows, passes)
    assert fewer.rows_alike == plan(10_000).rows_alike


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


def steps(rows: int, *, processes: int, step: int = 8, fit: int = 8) -> list[list[list[int]]]:
    """The rows of each step, by process; -1 = blank."""
    whole = BatchPlan(rows_per_step=step, rows_per_pass=step, longest=9, rows_alike=step)
    batches = whole.with_rows(fit).shared_by(processes)
    sampler = SharedRows(RowsByLength([9] * rows, batch=step, seed=0), batches)
    taken = [-1 if row == rows else row for row in sampler]
    assert len(sampler) == len(taken)
    size = batches.rows_per_pass
    passes = [taken[at : at + size] for at in range(0, len(taken), size)]
    assert len(passes) % processes == 0
    together = processes * batches.passes_per_step
    return [
        [
            [row for one in passes[start : start + together][rank::processes] for row in one]
            for rank in range(processes)
        ]
        for start in range(0, len(passes), together)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("fit", [1, 3, 8])
def test_the_rows_of_each_step_are_the_same_whatever_the_number_of_processes(
    processes: int, fit: int
) -> None:
    def learned(of: int) -> list[list[int]]:
        taken = steps(21, processes=of, fit=fit)
        return [sorted(row for rank in step for row in rank if row >= 0) for step in taken]

    assert learned(processes) == learned(1)


def test_processes_without_a_row_get_blank_ones() -> None:
    assert [[-1 in rank for rank in step] for step in steps(2, processes=4, step=2)] == [
        [False, False, True, True]
    ]


def test_no_process_has_more_than_its_share_of_a_step() -> None:
    batches = plan(10_000).shared_by(3)
    assert (batches.rows_per_step, batches.rows_per_pass, batches.passes_per_step) == (16, 6, 1)
