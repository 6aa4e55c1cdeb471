"""InferenceReady as the server's pod shows it, when the run has long ended. Pure."""

from collections.abc import Mapping
from typing import Any

from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.platform.diagnosis import describe_waiting, diagnose_pod
from tasks.platform.wire import is_pod_ready


def with_readiness(
    status: WorkspaceStatus, pod: Mapping[str, Any] | None
) -> WorkspaceStatus | None:
    """The status as the pod makes it; None when it says so already, or a run is still at work.

    Args: pod: None = it is gone.
    """
    served = status.served_generation
    if served is None or not status.state.is_settled:
        return None
    is_ready = pod is not None and is_pod_ready(pod)
    changed = status.model_copy(deep=True)
    if is_ready:
        url = status.endpoint.url if status.endpoint else "the server"
        changed.set_condition(
            ConditionType.INFERENCE_READY,
            status="True",
            reason="WorkspaceInferenceStatusSuccess",
            message=f"{url} answers",
            generation=served,
        )
    else:
        diagnosis = diagnose_pod(pod) if pod else None
        changed.set_condition(
            ConditionType.INFERENCE_READY,
            status="False",
            reason=diagnosis.reason if diagnosis else "WorkspaceInferenceStatusPending",
            message=diagnosis.message if diagnosis else describe_waiting(pod or {}),
            generation=served,
        )
    # A newer generation that has failed is told by the state, whatever the older one serves.
    if status.state.is_of_server:
        changed.state = State.READY if is_ready else State.NOT_READY
    return None if changed == status else changed
