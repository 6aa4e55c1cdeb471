"""A pod's template: ours, which the restricted Pod Security Standard lets in, or the user's own."""

from math import ceil

from tasks.contract.programs.evaluation import CommandConfig
from tasks.contract.steps import TAGGING
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.manifests.config_map import config_digest
from tasks.platform.manifests.labels import labels_of
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.volumes import volumes_of
from tasks.platform.node_affinity import node_affinity
from tasks.platform.passed_on import (
    PRIORITY_CLASS_ANNOTATION,
    RUNTIME_CLASS_ANNOTATION,
    pod_annotations,
    pod_labels,
)
from tasks.platform.tolerations import TOLERATIONS, own_tolerations
from tasks.platform.wire import Object

# Says that the pod's programs tell the pod's uid with each event; older ones tell nothing.
EVENT_NONCE_ANNOTATION = "kaitoflow.io/event-nonce"
# What its containers are told, so that a new text makes a new pod of a server.
CONFIG_DIGEST_ANNOTATION = "kaitoflow.io/config-digest"
_USER = 1000


def pod_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """A pod that the restricted Pod Security Standard lets in."""
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ceil(pod.grace_s),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*TOLERATIONS, *settings.tolerations, *own_tolerations(workspace)],
        "volumes": [*volumes_of(workspace, pod), *settings.volumes],
    }
    # What only talks to a registry needs none of the nodes that are made, which may be gone.
    goes_anywhere = pod.name == TAGGING and settings.are_nodes_made
    affinity = node_affinity(workspace, {}, are_nodes_made=settings.are_nodes_made)
    if affinity and not goes_anywhere:
        spec["affinity"] = affinity
    spec |= _classes(workspace, settings)
    if pulled_with := _pulled_with(workspace, pod, settings):
        spec["imagePullSecrets"] = [{"name": name} for name in pulled_with]
    told = {CONFIG_DIGEST_ANNOTATION: config_digest(workspace, pod), EVENT_NONCE_ANNOTATION: "uid"}
    metadata = {
        "labels": dict(settings.labels) | pod_labels(workspace) | labels_of(workspace, pod),
        "annotations": dict(settings.annotations) | pod_annotations(workspace) | told,
    }
    return {"metadata": metadata, "spec": spec}


def users_pod_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The user's own pod template, on the Workspace's nodes and found by its labels."""
    assert pod.template is not None
    given = dict(pod.template)
    metadata = dict(given.get("metadata") or {})
    own = pod_labels(workspace) | (metadata.get("labels") or {})
    metadata["labels"] = dict(settings.labels) | own | labels_of(workspace, pod)
    own = pod_annotations(workspace) | (metadata.get("annotations") or {})
    if annotations := dict(settings.annotations) | own:
        metadata["annotations"] = annotations
    spec = dict(given.get("spec") or {})
    asked = [*(spec.get("tolerations") or []), *own_tolerations(workspace)]
    spec["tolerations"] = [*asked, *settings.tolerations, *TOLERATIONS]
    spec = _classes(workspace, settings) | spec
    own_affinity = spec.get("affinity") or {}
    affinity = node_affinity(workspace, own_affinity, are_nodes_made=settings.are_nodes_made)
    if affinity:
        spec["affinity"] = affinity
    return {"metadata": metadata, "spec": spec}


def made_pod(maker: Object) -> Object:
    """The pod that a Job or a StatefulSet would make; its name is the API server's to choose."""
    template, meta = maker["spec"]["template"], maker["metadata"]
    metadata = dict(template.get("metadata") or {})
    metadata |= {"generateName": f"{meta['name']}-", "namespace": meta["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _pulled_with(workspace: Workspace, pod: Pod, settings: PodSettings) -> list[str]:
    """The Secrets with which the kubelet pulls images; a user's own may lie beside the adapters."""
    has_command = any(isinstance(each.config, CommandConfig) for each in pod.containers)
    own = [workspace.push_secret] if has_command and workspace.push_secret else []
    return list(dict.fromkeys([*settings.image_pull_secrets, *own]))


def _classes(workspace: Workspace, settings: PodSettings) -> Object:
    """The classes that the Workspace names for its pods, else the installation's."""
    asked = workspace.metadata.annotations
    named = {
        "priorityClassName": asked.get(PRIORITY_CLASS_ANNOTATION) or settings.priority_class,
        "runtimeClassName": asked.get(RUNTIME_CLASS_ANNOTATION) or settings.runtime_class,
    }
    return {field: name for field, name in named.items() if name}
