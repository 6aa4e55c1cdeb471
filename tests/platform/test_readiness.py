"""InferenceReady follows the server's pod once its run has ended."""

from typing import Any

import pytest

from tasks.contract.artifacts import Endpoint
from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.platform.readiness import with_readiness

Object = dict[str, Any]
READY = ConditionType.INFERENCE_READY


def served(state: State, *, ready: bool = True) -> WorkspaceStatus:
    """The status that a run of generation 1 left, whose server answered or not."""
    status = WorkspaceStatus(state=state, observed_generation=1)
    status.endpoint = Endpoint(url="http://tuned", model="tuned")
    reason = "WorkspaceInferenceStatusSuccess" if ready else "WorkspaceInferenceStatusPending"
    message = "http://tuned answers" if ready else ""
    status.set_condition(READY, status="True" if ready else "False", reason=reason, message=message)
    return status


def pod(*, ready: str = "True", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "tuned-0", "namespace": "team", **metadata},
        "spec": {"containers": [{"name": "serve", "image": "i"}], "nodeName": "gpu-1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_a_status_that_says_what_the_pod_shows_stays() -> None:
    status = served(State.READY)
    assert status.served_generation == 1
    assert with_readiness(status, pod()) is None


@pytest.mark.parametrize(
    "found",
    [None, pod(ready="False"), pod(deletionTimestamp="2026-01-01T00:00:00Z")],
    ids=["gone", "not ready", "leaving"],
)
def test_a_server_that_does_not_answer_is_told(found: Object | None) -> None:
    changed = with_readiness(served(State.READY), found)
    assert changed
    assert (changed.state, changed.is_true(READY)) == (State.NOT_READY, False)
    condition = changed.condition(READY)
    assert condition
    assert condition.reason == "WorkspaceInferenceStatusPending"


def test_a_server_that_answers_again_is_told() -> None:
    changed = with_readiness(served(State.NOT_READY, ready=False), pod())
    assert changed
    assert (changed.state, changed.is_true(READY)) == (State.READY, True)
    condition = changed.condition(READY)
    assert condition
    assert condition.message == "http://tuned answers"


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
def test_while_a_run_is_at_work_it_tells_itself(state: State) -> None:
    assert with_readiness(served(state), None) is None


def test_what_is_not_served_is_not_ready_for_anybody() -> None:
    assert (
        with_readiness(WorkspaceStatus(state=State.SUCCEEDED, observed_generation=1), None) is None
    )
