"""What keeps a pod on its node from starting, as only events tell, and what it does meanwhile."""

import re
from collections.abc import Sequence

from tasks.contract.errors import (
    ConfigMapNotFound,
    ContainerStartError,
    SecretNotFound,
    VolumeMountFailed,
)
from tasks.platform.diagnosis.facts import ContainerFacts, containers, node_name, phase
from tasks.platform.diagnosis.verdict import Cause, Diagnosis, find_cause, quoted, verdict
from tasks.platform.passed_on import QUEUE_LABEL
from tasks.platform.wire import Seen, condition, is_condition, name_of

_SUSPENDED = "suspended, waiting for somebody to resume its Job (spec.suspend: false)"

# The kubelet asks for them again by itself.
_PASSES = re.compile(r"failed to sync \w+ cache|not registered")
_MOUNT_CAUSES = (
    Cause(
        words=r"secret \"[^\"]+\" not found",
        error=SecretNotFound,
        fix="create the Secret in the Workspace's namespace",
    ),
    Cause(
        words=r"configmap \"[^\"]+\" not found",
        error=ConfigMapNotFound,
        fix="create the ConfigMap in the Workspace's namespace",
    ),
    Cause(
        words=r"references non-existent (?:config|secret) key",
        error=VolumeMountFailed,
        fix="add the key to the Secret or ConfigMap that the volume is made of",
    ),
    Cause(
        words=r"persistentvolumeclaims? \"[^\"]+\" not found",
        error=VolumeMountFailed,
        fix="create the PersistentVolumeClaim in the Workspace's namespace",
    ),
    Cause(
        words=r"Multi-Attach error",
        error=VolumeMountFailed,
        fix="wait until the pod that holds the volume has ended, or use a volume that several "
        "nodes may mount (ReadWriteMany)",
        is_final=False,
    ),
)
_UNKNOWN_MOUNT = Cause(
    error=VolumeMountFailed,
    fix="see what the volume waits for (kubectl describe pod, kubectl describe pvc)",
    is_final=False,
)
_NO_SANDBOX = Cause(
    error=ContainerStartError,
    meaning="the node cannot make its network and sandbox: ",
    fix="check the node's network plugin and container runtime (kubectl describe node)",
    is_final=False,
)


def diagnose_preparation(pod: Seen, warnings: Sequence[Seen]) -> Diagnosis | None:
    """Why volumes or network of the pod are not there, by its newest warning.

    None once they are: the sandbox in which containers start is made after them.
    """
    if not node_name(pod) or is_condition(pod, "PodReadyToStartContainers"):
        return None
    if any(c.running is not None or c.ended for c in containers(pod)):
        return None
    for event in warnings:
        said = str(event.get("message") or "")
        if event.get("reason") == "FailedCreatePodSandBox":
            return _unprepared(_NO_SANDBOX, pod, said)
        is_mount = event.get("reason") in {"FailedMount", "FailedAttachVolume"}
        if is_mount and not _PASSES.search(said):
            return _unprepared(find_cause(_MOUNT_CAUSES, said) or _UNKNOWN_MOUNT, pod, said)
    return None


def _unprepared(cause: Cause, pod: Seen, said: str) -> Diagnosis:
    return verdict(
        cause.error,
        asked=f"pod {name_of(pod)} was asked to start on node {node_name(pod)}",
        found=f"{cause.meaning}{quoted(said)}",
        fix=cause.fix,
        is_final=cause.is_final,
    )


def describe_waiting(pod: Seen, job: Seen | None = None) -> str:
    """One short line of what the pod is doing now: `waiting for a node`, `pulling image X`.

    An empty dict stands for the pod that is not there yet. A Job that is suspended has none, and
    has not failed: Kueue suspends it until its queue has room, or a person has done so.
    """
    if job and (job.get("spec") or {}).get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        return f"suspended, waiting for room in queue {queue}" if queue else _SUSPENDED
    if not pod:
        return "waiting for its pod"
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    if phase(pod) in {"Succeeded", "Failed"}:
        return phase(pod).lower()
    if not node_name(pod):
        is_held = condition(pod, "PodScheduled").get("reason") == "SchedulingGated"
        queue = (pod["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        held = f"waiting for room in queue {queue}" if queue else "held back by a scheduling gate"
        return held if is_held else "waiting for a node"
    everything = list(containers(pod))
    current = next((c for c in everything if not _is_past(c)), None)
    if current is None:
        return "ready" if is_condition(pod, "Ready") else "waiting to be ready"
    return _describe(pod, current, everything)


def _is_past(container: ContainerFacts) -> bool:
    if container.is_init:
        return bool(container.ended) and container.ended.get("exitCode") == 0
    return container.is_ready or bool(container.ended)


def _describe(pod: Seen, container: ContainerFacts, everything: list[ContainerFacts]) -> str:
    if container.running is not None:
        return f"{container.title} running{'' if container.is_init else ', not ready yet'}"
    reason = container.waiting.get("reason") or ""
    if container.ended or reason == "CrashLoopBackOff":
        return f"{container.title} starting again"
    if "Image" in reason:
        return f"pulling image {container.image} ({reason})"
    is_prepared = is_condition(pod, "PodReadyToStartContainers") or any(
        c.running is not None or c.ended for c in everything
    )
    if not is_prepared:
        return f"preparing volumes and network on node {node_name(pod)}"
    if any(c.image == container.image and (c.running or c.ended) for c in everything):
        return f"{container.title} starting"
    return f"pulling image {container.image}"
