"""Why a Job or StatefulSet makes no pod, or has given up."""

import re
from collections.abc import Sequence
from datetime import datetime

from tasks.contract.errors import DeadlineExceeded, JobFailed, PodForbidden, QuotaExceeded
from tasks.platform.diagnosis.facts import events_of
from tasks.platform.diagnosis.verdict import (
    RAISE_DEADLINE,
    Cause,
    Diagnosis,
    find_cause,
    quoted,
    verdict,
)
from tasks.platform.wire import Seen, condition, is_condition, name_of

# What the API server says to who makes a pod.
_REFUSALS = (
    Cause(
        words=r"exceeded quota: ",
        error=QuotaExceeded,
        fix="wait until others have ended, or raise the ResourceQuota of the namespace",
        is_final=False,
    ),
    Cause(
        words=r"failed quota: |insufficient quota",
        error=PodForbidden,
        fix="give every container the requests and limits that the ResourceQuota asks for",
    ),
    Cause(
        words=r"violates PodSecurity",
        error=PodForbidden,
        fix="correct these fields of the pod template, or run in a namespace whose label "
        "pod-security.kubernetes.io/enforce allows them",
    ),
    Cause(
        words=r"(?:maximum|minimum) \S+ usage per",
        error=PodForbidden,
        fix="ask for what the namespace's LimitRange allows, or change the LimitRange",
    ),
    Cause(
        words=r"serviceaccount \"[^\"]+\" not found",
        error=PodForbidden,
        fix="create the service account in the Workspace's namespace",
        is_final=False,
    ),
    Cause(
        words=r"admission webhook .* denied the request",
        error=PodForbidden,
        fix="change what the webhook objects to, or ask who runs it for an exception",
    ),
    Cause(
        words=r"ValidatingAdmissionPolicy .* denied request",
        error=PodForbidden,
        fix="change what the policy objects to, or ask who made it for an exception",
    ),
    Cause(
        words=r"no PriorityClass with name",
        error=PodForbidden,
        fix="name one that is there (kubectl get priorityclass)",
    ),
    Cause(
        words=r"field not declared in schema|strict decoding error|unknown field",
        error=PodForbidden,
        fix="correct the field's name in inference.template or the volumeSource",
    ),
    Cause(
        words=r"is invalid: ",
        error=PodForbidden,
        fix="correct these fields of the Workspace's pod template or volumes",
    ),
)
_UNKNOWN_REFUSAL = Cause(
    error=PodForbidden,
    fix="see what the API server or a webhook of it objects to (kubectl describe)",
    is_final=False,
)


def diagnose_job(
    job: Seen, events: Sequence[Seen] = (), *, now: datetime | None = None
) -> Diagnosis | None:
    """Why a Job or StatefulSet has failed or has no pod; None while it has one or is new.

    Ask `diagnose_pod` first, where there is a pod: it knows the cause, this only the end.
    Args:
        events: recent events; those of other objects are passed over.
        now: what was not said again in the last minutes counts as overcome; None = all counts.
    """
    for kind in ("Failed", "FailureTarget"):
        failed = condition(job, kind)
        if is_condition(job, kind):
            return _failed(job, failed)
    status = job.get("status") or {}
    if any(status.get(field) for field in ("active", "succeeded", "replicas")):
        return None
    for event in events_of(job, events, now=now):
        if event.get("reason") == "FailedCreate":
            said = str(event.get("message") or "")
            asked = f"{_title(job)} was asked to make its pod"
            return diagnose_refusal(said, asked=asked, what="the pod")
    return None


def _failed(job: Seen, failed: Seen) -> Diagnosis:
    reason, said = failed.get("reason"), quoted(failed.get("message") or "")
    is_overdue = reason == DeadlineExceeded.__name__
    look = "read the log of its last pod (kaitoflow logs), correct what it says and run again"
    return verdict(
        DeadlineExceeded if is_overdue else JobFailed,
        asked=f"{_title(job)} was asked to run to its end",
        found=f"it has failed ({reason}: {said})",
        fix=RAISE_DEADLINE if is_overdue else look,
        is_final=True,
    )


def diagnose_refusal(said: str, *, asked: str, what: str) -> Diagnosis:
    """What it means that the API server refuses an object, or a pod."""
    cause = find_cause(_REFUSALS, said) or _UNKNOWN_REFUSAL
    return verdict(
        cause.error,
        asked=asked,
        found=f"the API server refuses {what}: {quoted(_bare(said))}",
        fix=cause.fix,
        is_final=cause.is_final,
    )


def _bare(said: str) -> str:
    """The refusal without who was refused."""
    return re.sub(r"^(?:Error creating: |create Pod .* failed error: )", "", said)


def _title(job: Seen) -> str:
    return f"{job.get('kind') or 'Job'} {name_of(job)}"
