"""InferenceReady follows the server's pod when no run does."""

from typing import Any

import pytest

from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.platform.readiness import with_readiness

SERVED = ConditionType.INFERENCE_READY


def a_status(state: State, *, generation: int = 1, reason: str = "R") -> WorkspaceStatus:
    """A status whose server is that of generation 1."""
    status = WorkspaceStatus(state=state, observed_generation=generation)
    status.set_condition(SERVED, status="True", reason=reason, generation=1)
    return status


def pod(*, ready: str, **meta: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"name": "tuned-0", **meta}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (None, State.NOT_READY),
        (pod(ready="False"), State.NOT_READY),
        (pod(ready="True", deletionTimestamp="2026-01-01T00:00:00Z"), State.NOT_READY),
        (pod(ready="True"), State.READY),
    ],
)
def test_the_state_is_the_pod_s(seen: dict[str, Any] | None, state: State) -> None:
    changed = with_readiness(
        a_status(State.READY if state == State.NOT_READY else State.NOT_READY), seen
    )
    assert changed
    assert (changed.state, changed.is_true(SERVED)) == (state, state == State.READY)
    assert with_readiness(changed, seen) is None


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
def test_while_a_run_is_at_work_it_has_the_say(state: State) -> None:
    assert with_readiness(a_status(state), None) is None


def test_a_server_that_was_stopped_says_nothing() -> None:
    stopped = a_status(State.STOPPED, reason="StopRequested")
    assert with_readiness(stopped, pod(ready="True")) is None


def test_a_failed_edit_stays_failed_whatever_the_older_generation_s_server_does() -> None:
    changed = with_readiness(a_status(State.FAILED, generation=2), None)
    assert changed
    assert (changed.state, changed.served_generation) == ("Failed", 1)
    assert not changed.is_true(SERVED)
    again = with_readiness(changed, pod(ready="True"))
    assert again
    assert (again.state, again.served_generation, again.is_true(SERVED)) == ("Failed", 1, True)
