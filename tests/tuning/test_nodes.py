"""A model that several nodes train learns what it would learn on one, also where one goes."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tasks.contract.programs.tuning import FIRST_HOST, FIRST_PORT, JOB, POD_NUMBER, TuningConfig
from tasks.tuning.pod.meeting import free_port
from tests.tuning.runs import Runs, events_in, losses
from tests.tuning.test_ranks import ASKED, STEPS, alone, read_to_step, runs
from tests.tuning.tiny import chats, write_rows

__all__ = ["alone", "runs"]
pytestmark = pytest.mark.slow


@dataclass
class Job:
    """A run of two pods, which share no disk."""

    runs: Runs
    name: str
    port: int = field(default_factory=free_port)

    def config(self, number: int) -> TuningConfig:
        asked = self.runs.config(f"{self.name}-{number}", training=ASKED)
        return replace(asked, nodes=2, nodes_patience_s=120.0)

    def start(self, number: int, **changes: Any) -> Any:
        told = {POD_NUMBER: str(number), FIRST_HOST: "localhost", FIRST_PORT: str(self.port)}
        config = replace(self.config(number), **changes)
        return self.runs.start(config, **told, **{JOB: self.name})


def end(*programs: Any) -> None:
    for program in programs:
        program.kill()
        program.communicate(timeout=60)


def test_two_nodes_learn_what_one_would(runs: Runs, alone: TuningConfig) -> None:
    job = Job(runs, "nodes")
    other, first = job.start(1), job.start(0)
    out, log = first.communicate(timeout=500)
    assert other.poll() is None
    end(other)
    assert first.returncode == 0, log
    assert losses(job.config(0)) == pytest.approx(losses(alone), abs=1e-3)
    assert not (job.config(1).results_dir / "adapter").exists()
    steps = [event["step"] for event in events_in(out) if "loss" in event]
    assert steps == list(range(1, STEPS + 1))


def test_a_node_that_goes_costs_the_steps_since_the_last_checkpoint(
    runs: Runs, alone: TuningConfig
) -> None:
    job = Job(runs, "lost")
    other, first = job.start(1), job.start(0)
    read_to_step(first, 4)
    end(other)
    empty = runs.folder / "another-disk"
    again = job.start(1, results_dir=empty)
    out, log = first.communicate(timeout=500)
    end(again)
    assert first.returncode == 0, log
    assert "pod 1 was lost: all begin anew from the last checkpoint" in " ".join(log.split())
    notes = events_in(out)[-1]["notes"]
    assert [note for note in notes if note.startswith("went on from step")]
    assert losses(job.config(0)) == pytest.approx(losses(alone), abs=1e-3)
    assert any(empty.glob("checkpoints/checkpoint-*/complete.json"))


def test_nodes_that_got_other_rows_do_not_train(runs: Runs) -> None:
    job = Job(runs, "other")
    rows = write_rows(runs.folder / "others.jsonl", chats(7))
    other, first = job.start(1, train_file=rows, dataset_digest="sha256:1"), job.start(0)
    out, _ = first.communicate(timeout=500)
    end(other)
    verdict = events_in(out)[-1]
    assert (first.returncode, verdict["reason"]) == (1, "PodsNotTogether")
    assert "pod 1 has another dataset_digest, train_file_bytes than the first" in json.dumps(
        verdict
    )
