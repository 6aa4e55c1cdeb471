"""What the step `tune` says of its result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.programs.tuning import HeldOut, RowCounts, TuningResult
from tasks.tuning.task import _summary

RESULT = TuningResult(
    adapter=Path("adapter"),
    steps=9,
    final_loss=2.25,
    history=(),
    tokens=100,
    rows=RowCounts(trained=20, held_out=0, cut=0, dropped=0),
    held_out=None,
    tokens_per_s=1.0,
    peak_memory_gib=1.0,
    seconds=1.0,
)
HELD_OUT = HeldOut(rows=6, loss_before=4.0, loss_after=3.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": HELD_OUT}, "loss on 6 held-out answers 4.000 -> 3.500 (9 steps)"),
        (
            {"held_out": HeldOut(rows=6, loss_before=3.5, loss_after=4.0)},
            (
                "loss on 6 held-out answers 3.500 -> 4.000 (9 steps), "
                "which is worse than before tuning"
            ),
        ),
        ({}, "loss 2.250 after 9 steps"),
        (
            {"held_out_missing": "RuntimeError: sideways"},
            "loss 2.250 after 9 steps; held-out answers were not compared: RuntimeError: sideways",
        ),
        (
            {"rows": RowCounts(trained=5, held_out=0, cut=15, dropped=15)},
            "loss 2.250 after 9 steps; 15 of 20 rows dropped: no answer within max_length",
        ),
        (
            {"rows": RowCounts(trained=90, held_out=9, cut=0, dropped=0, resembling=2)},
            (
                "loss 2.250 after 9 steps; 2 of 9 held-out rows were not measured: "
                "nearly the same as rows that were trained on"
            ),
        ),
    ],
)
def test_the_detail_tells_the_loss_and_what_is_missing(changes: dict[str, Any], words: str) -> None:
    assert _summary(replace(RESULT, **changes)) == words
