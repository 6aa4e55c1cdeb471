"""The pods of one Job on several nodes: how each has a node, and finds the first one."""

from tasks.contract.programs.tuning import FIRST_HOST, FIRST_PORT, JOB
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.manifests.labels import labels_of, workspace_labels
from tasks.platform.manifests.naming import job_name, peers_name
from tasks.platform.manifests.owned import owned_object
from tasks.platform.wire import Object

DISTRIBUTED_PORT = 29500
# Of an Indexed Job's pods: of which Job each is.
_JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"


def apart_from_each_other(workspace: Workspace, pod: Pod, affinity: Object) -> Object:
    """How pods of one Job have a name each, and a node each."""
    apart = {
        "labelSelector": {"matchLabels": labels_of(workspace, pod)},
        "topologyKey": "kubernetes.io/hostname",
    }
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    return {"subdomain": peers_name(workspace), "affinity": affinity | {"podAntiAffinity": rule}}


def peers_service(workspace: Workspace) -> Object:
    """The headless Service by which the pods of a Job on several nodes find the first one.

    They have to before they are ready: they train before their last container begins.
    """
    selector = workspace_labels(workspace)
    port = {"name": "torch", "port": DISTRIBUTED_PORT, "targetPort": DISTRIBUTED_PORT}
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [{"protocol": "TCP", **port}],
    }
    return owned_object("v1", "Service", workspace, peers_name(workspace), spec=spec)


def peers_environment(workspace: Workspace, pod: Pod) -> list[Object]:
    """Where the first pod is found, and by what those of one Job know each other."""
    job = job_name(workspace, pod.name, pod.candidate)
    host = f"{job}-0.{peers_name(workspace)}.{workspace.metadata.namespace}.svc"
    uid = {"fieldRef": {"fieldPath": f"metadata.labels['{_JOB_UID_LABEL}']"}}
    return [
        {"name": FIRST_HOST, "value": host},
        {"name": FIRST_PORT, "value": str(DISTRIBUTED_PORT)},
        {"name": JOB, "valueFrom": uid},
    ]
