"""The StatefulSet that serves, the Services in front of it, and the record of what it serves."""

import hashlib
import json
from math import ceil

from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.manifests.containers import containers_of
from tasks.platform.manifests.labels import POD_LABEL, WORKSPACE_LABEL, labels_of
from tasks.platform.manifests.naming import headless_name, shortened, stateful_set_name
from tasks.platform.manifests.owned import owned_object
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.pod_template import (
    CONFIG_DIGEST_ANNOTATION,
    pod_template,
    users_pod_template,
)
from tasks.platform.manifests.several_nodes import DISTRIBUTED_PORT
from tasks.platform.passed_on import queue_labels
from tasks.platform.wire import Object

SERVER_PORT = 5000
LOAD_BALANCER_ANNOTATION = "kaito.sh/enablelb"
# Of a StatefulSet: what its pods are, whichever generation they are named after.
SERVER_DIGEST_ANNOTATION = "kaitoflow.io/server-digest"

# After which no Service leads to a pod that goes any more; part of the time that it has to end.
_NEWS_TRAVELS_S = 5


def stateful_set(
    workspace: Workspace, pod: Pod, settings: PodSettings, *, told: str = ""
) -> Object:
    """The StatefulSet whose pod serves: the pod's last container stays, those before prepare it.

    Args: told: digest of what the pods that are there were told; they stay, whatever those that
    take their place are told. Empty = a new text makes new pods.
    """
    spec: Object = {
        "replicas": 1 if pod.template is None else workspace.resource.count,
        "podManagementPolicy": "Parallel",
        "serviceName": headless_name(workspace),
        "selector": {"matchLabels": _selector(workspace, pod)},
        "template": _server_template(workspace, pod, settings),
    }
    made = owned_object(
        "apps/v1", "StatefulSet", workspace, stateful_set_name(workspace), spec=spec
    )
    made["metadata"]["labels"] |= queue_labels(workspace)
    made["metadata"]["annotations"] = {
        SERVER_DIGEST_ANNOTATION: server_digest(workspace, pod, settings)
    }
    if told:
        spec["template"]["metadata"]["annotations"][CONFIG_DIGEST_ANNOTATION] = told
    return made


def server_digest(workspace: Workspace, pod: Pod, settings: PodSettings) -> str:
    """What the pods of the StatefulSet are, whichever generation they are named after.

    Generations with the same digest have the same server: it need not be started anew.
    """
    template = _server_template(workspace.of_generation(0), pod, settings)
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]


def services(workspace: Workspace, pod: Pod) -> list[Object]:
    """The Service users talk to, and the headless one behind the StatefulSet."""
    ports = [_port("http", 80, SERVER_PORT), _port("torch", DISTRIBUTED_PORT, DISTRIBUTED_PORT)]
    found = {"selector": _selector(workspace, pod), "ports": ports}
    wants_balancer = workspace.metadata.annotations.get(LOAD_BALANCER_ANNOTATION) == "True"
    kind = "LoadBalancer" if wants_balancer else "ClusterIP"
    of_users, headless = {"type": kind, **found}, {"clusterIP": "None", **found}
    return [
        owned_object("v1", "Service", workspace, workspace.metadata.name, spec=of_users),
        owned_object("v1", "Service", workspace, headless_name(workspace), spec=headless),
    ]


def revision_of(workspace: Workspace, digest: str, data: Object) -> Object:
    """The ControllerRevision of what is served in the Workspace's generation."""
    name = shortened(f"{workspace.metadata.name}-served-{workspace.metadata.generation}-{digest}")
    content = {"revision": workspace.metadata.generation, "data": data}
    return owned_object("apps/v1", "ControllerRevision", workspace, name, **content)


def _selector(workspace: Workspace, pod: Pod) -> dict[str, str]:
    """The labels that the pods of all generations have in common."""
    labels = labels_of(workspace, pod)
    return {label: labels[label] for label in (WORKSPACE_LABEL, POD_LABEL)}


def _port(name: str, port: int, target: int) -> Object:
    return {"name": name, "protocol": "TCP", "port": port, "targetPort": target}


def _server_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    if pod.template is not None:
        return users_pod_template(workspace, pod, settings)
    template = pod_template(workspace, pod, settings)
    *first, last = containers_of(workspace, pod, settings)
    template["spec"] |= {"initContainers": first, "containers": [last | _serving(pod)]}
    return template


def _serving(pod: Pod) -> Object:
    probe = {"httpGet": {"path": "/health", "port": SERVER_PORT}}
    # vLLM is started again by the server in front of it, which says that it is not ready meanwhile.
    alive = {"httpGet": {"path": "/live", "port": SERVER_PORT}} if pod.has_vllm else probe
    return {
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "startupProbe": probe | {"periodSeconds": 2, "failureThreshold": ceil(pod.startup_s / 2)},
        "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 2, "timeoutSeconds": 5},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        # Each node's proxy hears a moment later that a pod goes: until then it is to answer.
        "lifecycle": {"preStop": {"sleep": {"seconds": _NEWS_TRAVELS_S}}},
    }
