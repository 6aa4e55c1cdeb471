"""Lives of one tuning, each a process that is killed at a step; the last one ends well.

Run as `python -m tests.tuning.lives CONFIG.json LIVES.json LEARNED.jsonl`. What the trainer needs
is imported once: lives are forks of a process that has not computed yet.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pydantic import TypeAdapter

from tasks.contract.podlog import Stopped
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.shapes import TuningShape
from tasks.tuning.pod import memory
from tasks.tuning.pod.train import main
from tasks.tuning.pod.trainer import AnswerTrainer


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process of a run.

    rows: the most that a pass has memory for. steps: after how many of its own it is killed; None =
    it is left alone. delay_s: how long after that. by: the signal.
    """

    rows: int
    steps: int | None = None
    delay_s: float = 0.0
    by: int = signal.SIGKILL


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a pass of a life learned from: its tokens, a tuple for each row."""

    life: int
    step: int
    rows: tuple[tuple[int, ...], ...]


LIVES, PASS = TypeAdapter(list[Life]), TypeAdapter(Pass)


def live(config: TuningConfig, life: Life, number: int, learned: Path) -> None:
    """Train, and tell of each pass before it is done."""
    told = os.open(learned, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    step: Any = AnswerTrainer.training_step

    def tell(self: AnswerTrainer, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        rows = tuple(tuple(row[mask.bool()].tolist()) for row, mask in pairs)
        one = Pass(life=number, step=self.state.global_step + 1, rows=rows)
        os.write(told, PASS.dump_json(one) + b"\n")
        return step(self, model, inputs, *args)

    def fits(_shape: object, wanted: TuningShape, **_: object) -> TuningShape:
        return replace(wanted, rows=life.rows)

    torch.set_num_threads(1)
    with (
        patch.object(AnswerTrainer, "training_step", tell),
        patch.object(memory, "batch_that_fits", fits),
    ):
        main(config)


def steps_of(number: int, learned: Path) -> int:
    """How many steps a life has begun."""
    if not learned.exists():
        return 0
    passes = [json.loads(line) for line in learned.read_text().splitlines()]
    return len({each["step"] for each in passes if each["life"] == number})


def run(config: TuningConfig, lives: Sequence[Life], learned: Path) -> list[int]:
    """How each life ended, as `os.waitstatus_to_exitcode` has it."""
    ends: list[int] = []
    for number, life in enumerate(lives):
        child = os.fork()
        if not child:
            try:
                live(config, life, number, learned)
            except Stopped:
                os._exit(128 + signal.SIGTERM)
            except BaseException:  # noqa: BLE001  # who looks at a fork sees its exit code
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        status = 0
        if life.steps is not None:
            while steps_of(number, learned) < life.steps and not status:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return [*ends, os.waitstatus_to_exitcode(status)]
                time.sleep(0.01)
            time.sleep(life.delay_s)
            os.kill(child, life.by)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return ends


if __name__ == "__main__":
    told, asked, where = (Path(each) for each in sys.argv[1:])
    config = TypeAdapter(TuningConfig).validate_json(told.read_bytes())
    sys.stdout.write(
        f"\n{json.dumps(run(config, LIVES.validate_json(asked.read_bytes()), where))}\n"
    )
