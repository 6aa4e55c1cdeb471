"""How rows are put into batches: by length, so that little is padded, in an order that seeds fix.

Not packed: without a kernel that knows the rows' borders, a packed row costs a mask as long as the
row squared, and grouping by length already leaves a few percent of padding. On two cores packing
trained 112 and 132 tokens/s where grouping trained 171 and 321, in turn, not alone (SmolLM2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from math import ceil

import torch
from torch.utils.data import Sampler

from tasks.estimate.steps import power_of_two, rows_per_step

_GROUP_OF_BATCHES = 50


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Rows to one step of the optimiser, and of one forward and backward pass of a process.

    rows_per_step: the effective batch size, of all processes together.
    rows_alike: rows in a row that are of like length. The order of rows follows from it, and so
    does what each step learns from; neither passes nor processes change it.
    """

    rows_per_step: int
    rows_per_pass: int
    longest: int
    rows_alike: int
    processes: int = 1

    @property
    def tokens_per_pass(self) -> int:
        """The most that is held in memory at once."""
        return self.rows_per_pass * self.longest

    @property
    def passes_per_step(self) -> int:
        """Passes of each process to one step."""
        return self._share // self.rows_per_pass

    @property
    def _share(self) -> int:
        """Rows of one process in a step; where they cannot be shared evenly, with some blanks."""
        return ceil(self.rows_per_step / self.processes)

    def with_rows(self, rows: int) -> "BatchPlan":
        """Passes of at most so many rows, and so many to a step that it learns from the same."""
        fitting = max(n for n in range(1, rows + 1) if self._share % n == 0)
        return replace(self, rows_per_pass=fitting)

    def shared_by(self, processes: int) -> "BatchPlan":
        """The same steps, taken by so many processes together."""
        return replace(self, processes=processes).with_rows(self.rows_per_pass)


def plan_batches(
    lengths: Sequence[int],
    *,
    epochs: float,
    tokens_per_pass: int,
    rows_per_pass: int | None = None,
    passes_per_step: int | None = None,
) -> BatchPlan:
    """Batch sizes that suit the rows, powers of two; a size that is given is kept.

    rows_per_pass given alone is the whole step, as to KAITO and transformers.
    tokens_per_pass: most tokens of a pass, for nine rows in ten.
    """
    usual = sorted(lengths)[int(len(lengths) * 0.9)] if len(lengths) > 1 else lengths[0]
    if rows_per_pass is None:
        of_a_step = rows_per_step(len(lengths), epochs=epochs)
        most = of_a_step if passes_per_step is None else len(lengths)
        rows_per_pass = power_of_two(min(most, tokens_per_pass // usual))
        passes_per_step = passes_per_step or of_a_step // rows_per_pass
    return BatchPlan(
        rows_per_step=rows_per_pass * (passes_per_step or 1),
        rows_per_pass=rows_per_pass,
        longest=max(lengths),
        rows_alike=rows_per_pass,
    )


class RowsByLength(Sampler[int]):
    """Row indices such that each batch holds rows of like length; another order each epoch."""

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer; a resumed run sees the order that it was stopped in."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Shuffle, sort within groups of 50 batches, cut into batches, shuffle these."""
        # An odd multiplier keeps seed and epoch from meeting each other's orders.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        group = self._batch * _GROUP_OF_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), group):
            alike = sorted(order[start : start + group], key=self._lengths.__getitem__)
            batches += [alike[at : at + self._batch] for at in range(0, len(alike), self._batch)]
        # The batch that is not full comes last, or it would shift the borders of all after it.
        full = [batch for batch in batches if len(batch) == self._batch]
        rest = [batch for batch in batches if len(batch) < self._batch]
        for position in torch.randperm(len(full), generator=generator).tolist():
            yield from full[position]
        for batch in rest:
            yield from batch


class SharedRows(Sampler[int]):
    """The rows of all processes: pass by pass, and in each pass those of one after the other.

    Steps hold the rows that they have where one process takes them alone. Where these do not fill
    the passes, the index after the last row stands for a blank one, from which nothing is learned.
    """

    def __init__(self, rows: RowsByLength, batches: BatchPlan) -> None:
        self._rows = rows
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer, as it is of the rows."""
        self._rows.set_epoch(epoch)

    def __len__(self) -> int:
        whole, rest = divmod(len(self._rows), self._batches.rows_per_step)
        return whole * self._filled(self._batches.rows_per_step) + self._filled(rest)

    def __iter__(self) -> Iterator[int]:
        """Go through the rows step by step, each filled up."""
        blank, size = len(self._rows), self._batches.rows_per_step
        order = list(self._rows)
        for start in range(0, len(order), size):
            step = order[start : start + size]
            yield from step
            yield from repeat(blank, self._filled(len(step)) - len(step))

    def _filled(self, rows: int) -> int:
        """So many rows, and blanks, that every process has whole passes and as many as another."""
        together = self._batches.rows_per_pass * self._batches.processes
        return ceil(rows / together) * together
