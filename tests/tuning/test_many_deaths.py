"""A tuning that is killed again and again ends as one that was left alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from random import Random

import pytest
from pydantic import TypeAdapter

from tasks.contract.programs.tuning import TuningConfig
from tests.tuning.lives import LIVES, PASS, Life, Pass
from tests.tuning.runs import ENVIRONMENT, ROOT, Runs, losses

DEATHS, STEPS = 10, 90
SETTINGS = {
    "per_device_train_batch_size": None,
    "gradient_accumulation_steps": 1,
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 3,
}
ENDED_BY: dict[int, int] = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}
Step = tuple[tuple[int, ...], ...]


def lived(runs: Runs, name: str, lives: Sequence[Life]) -> tuple[TuningConfig, list[Pass]]:
    """A run of so many lives, and what each of their passes learned from."""
    config = runs.config(name, training=SETTINGS)
    told, asked, learned = (runs.folder / f"{name}.{end}" for end in ("json", "lives", "learned"))
    told.write_bytes(TypeAdapter(TuningConfig).dump_json(config))
    asked.write_bytes(LIVES.dump_json([*lives]))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tuning.lives", told, asked, learned],
        check=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    ends = json.loads(ended.stdout.splitlines()[-1])
    assert ends == [0 if each.steps is None else ENDED_BY[each.by] for each in lives], ended.stderr
    return config, [PASS.validate_json(line) for line in learned.read_text().splitlines()]


def by_step(passes: Sequence[Pass]) -> dict[int, Step]:
    """The rows of each step, in their order."""
    steps: dict[int, Step] = {}
    for each in passes:
        steps[each.step] = steps.get(each.step, ()) + each.rows
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory_for", "tolerance"), [((4,), 1e-3), ((1, 2, 4), 1e-2)], ids=["same", "changing"]
)
def test_ten_deaths_leave_the_same_rows_and_the_same_losses(
    runs: Runs, memory_for: Sequence[int], tolerance: float
) -> None:
    random = Random(7)
    deaths = [
        Life(
            rows=random.choice(memory_for),
            steps=random.randint(1, 6),
            delay_s=random.uniform(0, 0.03),
            by=random.choice([*ENDED_BY]),
        )
        for _ in range(DEATHS)
    ]
    unbroken, alone = lived(runs, "unbroken", [Life(rows=4)])
    config, passes = lived(runs, "killed", [*deaths, Life(rows=memory_for[-1])])
    expected, reached = by_step(alone), 0
    assert sorted(expected) == [*range(1, STEPS + 1)]
    for number in range(DEATHS + 1):
        steps = by_step([each for each in passes if each.life == number])
        first, last = min(steps), max(steps)
        assert first <= reached + 1, "a step was left out"
        assert all(steps[each] == expected[each] for each in range(first, last))
        assert steps[last] == expected[last][: len(steps[last])]  # it may have been killed in it
        reached = last
    assert reached == STEPS
    assert losses(config) == pytest.approx(losses(unbroken), rel=tolerance)
