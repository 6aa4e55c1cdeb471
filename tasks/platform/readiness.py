"""InferenceReady as the server's pod shows it, when the run has long ended. Pure."""

from collections.abc import Mapping
from typing import Any

from tasks.platform.diagnosis import describe_waiting, diagnose_pod
from tasks.status import ConditionType, WorkspaceStatus


def with_readiness(
    status: WorkspaceStatus, pod: Mapping[str, Any] | None
) -> WorkspaceStatus | None:
    """The status as the pod makes it; None when it says so already, or a run is still at work.

    Args: pod: None = it is gone.
    """
    if status.state not in ("Ready", "NotReady"):
        return None
    is_ready = pod is not None and _is_ready(pod)
    changed = status.model_copy(deep=True)
    if is_ready:
        url = status.endpoint.url if status.endpoint else "the server"
        changed.state = "Ready"
        changed.set_condition(
            ConditionType.INFERENCE_READY,
            status="True",
            reason="WorkspaceInferenceStatusSuccess",
            message=f"{url} answers",
        )
    else:
        diagnosis = diagnose_pod(pod) if pod else None
        changed.state = "NotReady"
        changed.set_condition(
            ConditionType.INFERENCE_READY,
            status="False",
            reason=diagnosis.reason if diagnosis else "WorkspaceInferenceStatusPending",
            message=diagnosis.message if diagnosis else describe_waiting(pod or {}),
        )
    return None if changed == status else changed


def _is_ready(pod: Mapping[str, Any]) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
