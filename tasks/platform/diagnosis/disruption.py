"""What happened to a pod from outside: evicted, preempted, turned down, its node lost."""

import re

from tasks.contract.errors import (
    DeadlineExceeded,
    DiskFull,
    NodeDiskPressure,
    NodeLost,
    NodeMemoryPressure,
    NodeNotReady,
    PodEvicted,
    PodPreempted,
    PodRejected,
)
from tasks.platform.diagnosis.facts import node_name, phase
from tasks.platform.diagnosis.verdict import (
    RAISE_DEADLINE,
    Cause,
    Diagnosis,
    find_cause,
    quoted,
    verdict,
)
from tasks.platform.wire import Seen, condition, is_condition, name_of

# Reasons with which a kubelet turns down a pod that was bound to its node.
_REJECTED = re.compile(
    r"OutOf\S+|UnexpectedAdmissionError|NodeAffinity|NodeName|NodePorts|NodeShutdown"
    r"|TopologyAffinityError|PodOSNotSupported|PodFeatureUnsupported"
)
_EVICTIONS = (
    Cause(
        words=r"resource: (?:ephemeral-storage|inodes)|DiskPressure",
        error=NodeDiskPressure,
        meaning="it was evicted because the node ran out of disk",
        fix="take a node with a larger disk, or remove images and pods from this one",
    ),
    Cause(
        words=r"resource: memory|MemoryPressure",
        error=NodeMemoryPressure,
        meaning="it was evicted because the node ran out of memory",
        fix="take a node with more memory, or let fewer pods share it",
    ),
    Cause(
        words=r"ephemeral (?:local )?storage|Usage of EmptyDir",
        error=DiskFull,
        meaning="it was evicted because it wrote more than it may",
        fix="raise the limit of its volume, or write less (smaller model, fewer checkpoints)",
    ),
)
_EVICTED = Cause(
    error=PodEvicted,
    meaning="it was evicted",
    fix="run again when its node is no longer drained or short of something",
)
_OVERDUE = Cause(
    error=DeadlineExceeded,
    meaning="its time was over",
    fix=RAISE_DEADLINE,
)
_PREEMPTED = Cause(
    error=PodPreempted,
    meaning="it made way for a pod of higher priority",
    fix="run again when there is room, or give the Workspace's pods a higher priority class",
)
_LOST = Cause(
    error=NodeLost,
    meaning="the node went away",
    fix="run again on another node (a spot node may be taken away at any time)",
)
_BY_REASON = {
    "DeadlineExceeded": _OVERDUE,
    "Preempting": _PREEMPTED,
    "NodeLost": _LOST,
}
_BY_TARGET = {
    "PreemptionByScheduler": _PREEMPTED,
    "EvictionByEvictionAPI": _EVICTED,
    "DeletionByTaintManager": _LOST,
    "DeletionByPodGC": _LOST,
    "TerminationByKubelet": _LOST,
}


def diagnose_disruption(pod: Seen) -> Diagnosis | None:
    """Who ended the pod and why; None while nobody did. Always final: only a new pod helps."""
    status = pod.get("status") or {}
    reason, said = status.get("reason") or "", status.get("message") or ""
    if reason == "Evicted":
        return _ended(find_cause(_EVICTIONS, said) or _EVICTED, pod, said)
    if reason in _BY_REASON:
        return _ended(_BY_REASON[reason], pod, said)
    if phase(pod) == "Failed" and _REJECTED.fullmatch(reason):
        return _rejected(pod, f"{reason}: {said}")
    target = condition(pod, "DisruptionTarget")
    if target.get("status") != "True":
        return None
    cause = _BY_TARGET.get(target.get("reason") or "", _EVICTED)
    return _ended(cause, pod, target.get("message") or "")


def diagnose_node(pod: Seen, node: Seen | None) -> Diagnosis | None:
    """Whether the pod's node is away; not final, for it may come back."""
    if node is None or not node_name(pod):
        return None
    ready = condition(node, "Ready")
    if is_condition(node, "Ready"):
        return None
    is_silent = ready.get("status") != "False"
    said = f"{ready.get('reason') or 'no condition'}: {ready.get('message') or 'never ready'}"
    return verdict(
        NodeLost if is_silent else NodeNotReady,
        asked=f"pod {name_of(pod)} needs its node {name_of(node)}",
        found=f"the node {'is silent' if is_silent else 'is not ready'} ({quoted(said)})",
        fix="look at the machine (kubectl describe node): without it the pod is given up after "
        "some minutes and can run again elsewhere",
        is_final=False,
    )


def _rejected(pod: Seen, said: str) -> Diagnosis:
    return verdict(
        PodRejected,
        asked=f"pod {name_of(pod)} was to run on node {node_name(pod) or '(none)'}",
        found=f"the node turned it down ({quoted(said)})",
        fix="run again, and if it happens again see what else runs on that node "
        "(kubectl describe node)",
        is_final=True,
    )


def _ended(cause: Cause, pod: Seen, said: str) -> Diagnosis:
    where = f" on node {node_name(pod)}" if node_name(pod) else ""
    return verdict(
        cause.error,
        asked=f"pod {name_of(pod)} was to run to its end{where}",
        found=f"{cause.meaning}{f' ({quoted(said)})' if said else ''}",
        fix=cause.fix,
        is_final=True,
    )
