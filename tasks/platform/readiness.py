"""InferenceReady as the pods of a server show it. Pure."""

from collections.abc import Sequence

from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.platform.diagnosis import describe_waiting, diagnose_pod
from tasks.platform.wire import Seen, is_pod_ready


def tell_of_server(status: WorkspaceStatus, pods: Sequence[Seen]) -> bool:
    """Whether what serves answers, which its condition says from now on, and if not why.

    All its pods have to be ready. The condition goes on speaking of the generation that is served.
    """
    waiting = [pod for pod in pods if not is_pod_ready(pod)]
    is_ready = bool(pods) and not waiting
    if is_ready:
        reason = "WorkspaceInferenceStatusSuccess"
        message = f"{status.endpoint.url if status.endpoint else 'the server'} answers"
    else:
        pod = waiting[0] if waiting else {}
        diagnosis = diagnose_pod(pod) if pod else None
        reason = diagnosis.reason if diagnosis else "WorkspaceInferenceStatusPending"
        message = diagnosis.message if diagnosis else describe_waiting(pod)
    status.set_condition(
        ConditionType.INFERENCE_READY,
        status="True" if is_ready else "False",
        reason=reason,
        message=message,
        generation=status.served_generation,
    )
    return is_ready
