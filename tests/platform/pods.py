"""Pods, Jobs, Nodes and Events as an API server of Kubernetes 1.36 gives them."""

from typing import Any

Object = dict[str, Any]
NAME, NODE, IMAGE = "phi-3-tuning-x7k2p", "gpu-1", "registry.example.com/kaitoflow:1"


def container(name: str, *, memory: str | None = None, **resources: Any) -> Object:
    """A container of a pod's spec."""
    limits = {"memory": memory} if memory else {}
    return {"name": name, "image": IMAGE, "resources": {"limits": limits, **resources}}


def status(name: str, *, restarts: int = 0, last: Object | None = None, **state: Any) -> Object:
    """A container's status: waiting=, running= or terminated=."""
    return {
        "name": name,
        "image": IMAGE,
        "imageID": "",
        "ready": False,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }


def ended(code: int, reason: str = "Error", message: str | None = None) -> Object:
    """How a container terminated."""
    said = {"message": message} if message else {}
    times = {"startedAt": "2026-11-24T10:00:00Z", "finishedAt": "2026-11-24T10:01:00Z"}
    return {"exitCode": code, "reason": reason, "containerID": "containerd://1", **times, **said}


def pod(
    *,
    phase: str = "Pending",
    node: str | None = NODE,
    init: list[Object] | None = None,
    main: list[Object] | None = None,
    conditions: dict[str, Object] | None = None,
    restart: str = "Never",
    spec: Object | None = None,
    **changes: Any,
) -> Object:
    """A pod with init containers `fetch-dataset` and `tune`, and `push-image`.

    Args: init, main: their statuses; conditions: by type; changes: of its status.
    """
    told = [{"type": kind, **content} for kind, content in (conditions or {}).items()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": "default", "uid": "pod-1"},
        "spec": {
            "restartPolicy": restart,
            "initContainers": [container("fetch-dataset"), container("tune", memory="16Gi")],
            "containers": [container("push-image")],
            **({"nodeName": node} if node else {}),
            **(spec or {}),
        },
        "status": {
            "phase": phase,
            "conditions": told,
            **({"initContainerStatuses": init} if init else {}),
            **({"containerStatuses": main} if main else {}),
            **changes,
        },
    }


def waiting_pod(reason: str, message: str, *, restart: str = "Never", **more: Any) -> Object:
    """A pod whose init container `tune` waits for a reason, on a node that made its sandbox."""
    state = status("tune", waiting={"reason": reason, "message": message}, **more)
    sandbox = {"PodReadyToStartContainers": {"status": "True"}}
    first = status("fetch-dataset", terminated=ended(0, "Completed"))
    return pod(init=[first, state], conditions=sandbox, restart=restart)


def unschedulable_pod(message: str, **spec: Any) -> Object:
    """A pod that the scheduler found no node for."""
    said = {"status": "False", "reason": "Unschedulable", "message": message}
    return pod(node=None, conditions={"PodScheduled": said}, spec=spec)


def new_pod() -> Object:
    """A pod that was bound to its node and has no container yet."""
    state = status("fetch-dataset", waiting={"reason": "PodInitializing"})
    prepared = {"PodReadyToStartContainers": {"status": "False"}}
    return pod(init=[state], conditions=prepared)


def event(
    reason: str,
    message: str,
    *,
    uid: str = "pod-1",
    kind: str = "Warning",
    at: str = "2026-11-24T10:00:00Z",
) -> Object:
    """A core/v1 Event."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"e-{abs(hash(message))}", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": NAME, "namespace": "default", "uid": uid},
        "reason": reason,
        "message": message,
        "type": kind,
        "count": 3,
        "firstTimestamp": "2026-11-24T09:59:00Z",
        "lastTimestamp": at,
        "eventTime": None,
    }


def node(**conditions: Object) -> Object:
    """A node with conditions by type."""
    told = [{"type": kind, **content} for kind, content in conditions.items()]
    return {"metadata": {"name": NODE, "uid": "node-1"}, "status": {"conditions": told}}


def job(*conditions: Object, **status: Any) -> Object:
    """A Job with conditions and counts."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "phi-3-tuning", "namespace": "default", "uid": "job-1"},
        "status": {"conditions": list(conditions), **status},
    }
