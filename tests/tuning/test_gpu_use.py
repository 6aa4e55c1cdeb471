"""What a run's GPUs were held for, from the moments that its status has."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.status import FinishedStep, WorkspaceStatus
from tasks.contract.steps import TUNING
from tasks.platform.base import Pod
from tasks.tuning.gpu_use import gpu_use
from tests.tuning.test_task import RESULT

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)
TRAINED = replace(RESULT, tokens=90_000, tokens_per_s=100.0)  # 900 seconds
POD = Pod(name=TUNING, containers=(), gpus=2)


def step(name: str, seconds: float, finished: str) -> FinishedStep:
    return FinishedStep(name=name, seconds=seconds, detail="", finished=f"2026-01-01T{finished}Z")


def status(*machines: dict[str, Any]) -> WorkspaceStatus:
    usual = {"name": "m", "instance_type": "t", "capacity_type": "spot", "gpus": 4}
    held = [HeldMachine.model_validate(usual | each) for each in machines]
    return WorkspaceStatus(
        steps=[step("provision", 600.4, "12:10:00"), step("weights", 300, "12:15:00")],
        cost=Cost(machines=held),
    )


def test_a_machine_that_was_made_is_held_from_its_claim_on_with_all_its_gpus() -> None:
    held = status({"since": "2026-01-01T12:00:00Z"})
    told = "14,400 GPU-seconds held by then, 12,600 of them (88%) not training"
    assert gpu_use(held, POD, TRAINED, NOW) == told


@pytest.mark.parametrize(
    "machine",
    [
        {"since": "2026-01-01T09:00:00Z"},  # of what serves
        {"since": "2026-01-01T12:00:00Z", "until": "2026-01-01T12:05:00Z"},
        {"since": "2026-01-01T12:00:00Z", "gpus": 0},
    ],
)
def test_where_none_was_made_for_the_run_the_pod_holds_its_own_from_the_weights_on(
    machine: dict[str, Any],
) -> None:
    told = "6,000 GPU-seconds held by then, 4,200 of them (70%) not training"
    for held in (status(), status(machine)):
        assert gpu_use(held, POD, TRAINED, NOW) == told
    assert gpu_use(status(), replace(POD, nodes=2), TRAINED, NOW).startswith("12,000 GPU-seconds")


def test_without_gpus_or_moments_nothing_is_told() -> None:
    assert gpu_use(status(), replace(POD, gpus=0), TRAINED, NOW) == ""
    assert gpu_use(WorkspaceStatus(), POD, TRAINED, NOW) == ""
    assert gpu_use(status(), POD, replace(TRAINED, tokens_per_s=0.0), NOW) == ""
