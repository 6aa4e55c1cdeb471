"""The Kubernetes objects of a Workspace. Pure: a Workspace and a pod in, manifests out.

Every object is owned by its Workspace, carries the labels by which it is found again, and has a
name that follows from the Workspace's, so that making it twice is making it once.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.contract.podlog import EVENT_NONCE
from tasks.contract.resource_rules import is_reserved_label
from tasks.contract.steps import FETCH_WEIGHTS, INFERENCE, SERVE, TUNE, TUNING
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, Pod, PodPaths
from tasks.platform.tolerations import TOLERATIONS, own_tolerations
from tasks.platform.wire import Object

MANAGED_BY = {"app.kubernetes.io/managed-by": "kaitoflow"}
WORKSPACE_LABEL = "kaito.sh/workspace"
GENERATION_LABEL = "kaitoflow.io/generation"
POD_LABEL = "kaitoflow.io/pod"
SERVER_PORT, DISTRIBUTED_PORT = 5000, 29500
# Says that the pod's programs tell the pod's uid with each event; older ones tell nothing.
EVENT_NONCE_ANNOTATION = "kaitoflow.io/event-nonce"
LOAD_BALANCER_ANNOTATION = "kaito.sh/enablelb"
PRIORITY_CLASS_ANNOTATION = "kaitoflow.io/priority-class"

_USER = 1000
_NAME_MAX_CHARS = 63
# A StatefulSet's pods carry its name and a hash of ten more characters in a label.
_STATEFUL_SET_MAX_CHARS = 52
_BACKOFF_LIMIT = 2
# Asked to end, training saves a checkpoint and a server lets its answers end; the 30 s that are
# Kubernetes' default are too short for a large adapter on a slow disk.
_GRACE_S = 120
# What a pod program says by its exit code (tasks/contract/podlog.py): these would end the same
# way again, and so would one that took more memory than there is (137, when its node stays).
_FINAL_EXIT_CODES = [1, 3, 137]
_DOCKER_CONFIG_KEY = ".dockerconfigjson"

PATHS = {
    "config_dir": Path("/mnt/config"),
    "source_dir": Path("/mnt/data"),
    "results_dir": Path("/mnt/results"),
    "adapter_dir": Path("/mnt/adapter"),
    "weights_dir": Path("/workspace/weights"),
    "images_dir": Path("/mnt/images"),
}
_TMP_DIR, _SHARED_MEMORY_DIR = "/tmp", "/dev/shm"  # noqa: S108  volumes of the pod's own
_PREPARED_DIR = Path("/mnt/dataset")
_SECRETS_DIR = Path("/mnt/secrets")


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What an installation says of its pods.

    image: has all pod programs. environment: variables of every container (a hub mirror, ...).
    job_timeout_s: how long a Job may take in all, with waiting and every new try.
    labels, annotations: of every pod; those that a pod has by itself win.
    """

    image: str
    job_timeout_s: float
    image_pull_secrets: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


def pod_paths(workspace: Workspace) -> PodPaths:
    """Where the pods find their files; a dataset that is mounted is prepared beside its volume."""
    downloads = workspace.tuning is not None and bool(workspace.tuning.input.urls)
    return PodPaths(**PATHS, data_dir=PATHS["source_dir"] if downloads else _PREPARED_DIR)


def docker_config_path(secret: str) -> Path:
    """Where a docker-config Secret is mounted; the kubelet brings a changed one up to date."""
    return _SECRETS_DIR / secret / "config.json"


def job_name(workspace: Workspace) -> str:
    """The tuning Job of the Workspace's generation."""
    return _short(f"{workspace.metadata.name}-tune-{workspace.metadata.generation}")


def stateful_set_name(workspace: Workspace) -> str:
    """The inference StatefulSet: the Workspace's own name."""
    return _short(workspace.metadata.name, _STATEFUL_SET_MAX_CHARS)


def object_names(workspace: Workspace) -> list[tuple[str, str]]:
    """(kind, name) of every object that the Workspace is made into."""
    names = []
    if workspace.tuning:
        names += [("Job", job_name(workspace))]
        names += [("ConfigMap", _config_map_name(workspace, TUNING))]
    if workspace.is_served:
        names += [("Service", workspace.metadata.name), ("Service", _headless_name(workspace))]
        names += [("StatefulSet", stateful_set_name(workspace))]
        names += [("ConfigMap", _config_map_name(workspace, INFERENCE))]
    return names


def service_url(workspace: Workspace) -> str:
    """Where the Workspace's Service answers inside the cluster."""
    return f"http://{workspace.metadata.name}.{workspace.metadata.namespace}.svc"


@functools.cache
def _adapter(config: type[Any]) -> TypeAdapter[Any]:
    """Made once for each program: to make one takes longer than all the rest of a manifest."""
    return TypeAdapter(config)


def config_map(workspace: Workspace, pod: Pod) -> Object:
    """What the pod's containers are told, one file each, and the files beside them."""
    configs = {
        f"{container.name}.json": _adapter(type(container.config))  # type: ignore[arg-type]
        .dump_json(container.config, indent=1)
        .decode()
        for container in pod.containers
    }
    name = _config_map_name(workspace, pod.name)
    return _object("v1", "ConfigMap", workspace, name, data={**pod.files, **configs})


def tuning_job(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The Job that runs the pod's containers one after the other."""
    template = _template(workspace, pod, settings)
    *first, last = [_container(workspace, pod, each, settings) for each in pod.containers]
    template["spec"] |= {
        "restartPolicy": "Never",
        "initContainers": first,
        "containers": [last],
    }
    spec = {
        "backoffLimit": _BACKOFF_LIMIT,
        "activeDeadlineSeconds": round(settings.job_timeout_s),
        "podReplacementPolicy": "Failed",  # never two pods that could push to one tag
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {"operator": "In", "values": _FINAL_EXIT_CODES},
                },
            ]
        },
        "template": template,
    }
    job = _object("batch/v1", "Job", workspace, job_name(workspace), spec=spec)
    job["metadata"]["labels"] = _labels(workspace, pod)
    return job


def stateful_set(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The StatefulSet whose pod serves: the pod's last container stays, those before prepare it."""
    labels = _labels(workspace, pod)
    if pod.template is not None:
        template = _from_users_template(workspace, pod, settings)
    else:
        template = _template(workspace, pod, settings)
        *first, last = [_container(workspace, pod, each, settings) for each in pod.containers]
        template["spec"] |= {"initContainers": first, "containers": [last | _serving()]}
    spec = {
        "replicas": 1 if pod.template is None else workspace.resource.count,
        "podManagementPolicy": "Parallel",
        "serviceName": _headless_name(workspace),
        "selector": {"matchLabels": {k: labels[k] for k in (WORKSPACE_LABEL, POD_LABEL)}},
        "template": template,
    }
    return _object("apps/v1", "StatefulSet", workspace, stateful_set_name(workspace), spec=spec)


def services(workspace: Workspace, pod: Pod) -> list[Object]:
    """The Service users talk to, and the headless one behind the StatefulSet."""
    labels = _labels(workspace, pod)
    selector = {k: labels[k] for k in (WORKSPACE_LABEL, POD_LABEL)}
    ports = [
        {"name": "http", "protocol": "TCP", "port": 80, "targetPort": SERVER_PORT},
        {
            "name": "torch",
            "protocol": "TCP",
            "port": DISTRIBUTED_PORT,
            "targetPort": DISTRIBUTED_PORT,
        },
    ]
    wants_balancer = workspace.metadata.annotations.get(LOAD_BALANCER_ANNOTATION) == "True"
    kind = "LoadBalancer" if wants_balancer else "ClusterIP"
    name = workspace.metadata.name
    headless = {"clusterIP": "None", "selector": selector, "ports": ports}
    return [
        _object(
            "v1",
            "Service",
            workspace,
            name,
            spec={"type": kind, "selector": selector, "ports": ports},
        ),
        _object("v1", "Service", workspace, _headless_name(workspace), spec=headless),
    ]


def owner_reference(workspace: Workspace) -> Object:
    """Objects with this go when the Workspace goes."""
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "name": workspace.metadata.name,
        "uid": workspace.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def workspace_labels(workspace: Workspace) -> dict[str, str]:
    """The labels by which every object of a Workspace is found."""
    return {**MANAGED_BY, WORKSPACE_LABEL: workspace.metadata.name}


def _labels(workspace: Workspace, pod: Pod) -> dict[str, str]:
    generation = {GENERATION_LABEL: str(workspace.metadata.generation)}
    return workspace_labels(workspace) | generation | {POD_LABEL: pod.name}


def _object(version: str, kind: str, workspace: Workspace, name: str, **content: Any) -> Object:
    metadata = {
        "name": name,
        "namespace": workspace.metadata.namespace,
        "labels": workspace_labels(workspace)
        | {GENERATION_LABEL: str(workspace.metadata.generation)},
        "ownerReferences": [owner_reference(workspace)],
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """A pod that the restricted Pod Security Standard lets in."""
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*TOLERATIONS, *own_tolerations(workspace)],
        "volumes": _volumes(workspace, pod),
    }
    if affinity := _affinity(workspace):
        spec["affinity"] = affinity
    if priority_class := workspace.metadata.annotations.get(PRIORITY_CLASS_ANNOTATION):
        spec["priorityClassName"] = priority_class
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    # A new text of what the containers are told has to make a new pod of a server.
    digest = _digest(config_map(workspace, pod)["data"])
    metadata = {
        "labels": dict(settings.labels) | _labels(workspace, pod),
        "annotations": dict(settings.annotations)
        | {"kaitoflow.io/config-digest": digest, EVENT_NONCE_ANNOTATION: "uid"},
    }
    return {"metadata": metadata, "spec": spec}


def _from_users_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The user's own pod template, on the Workspace's nodes and found by its labels."""
    assert pod.template is not None
    given = dict(pod.template)
    metadata = dict(given.get("metadata") or {})
    own = metadata.get("labels") or {}
    metadata["labels"] = dict(settings.labels) | own | _labels(workspace, pod)
    if annotations := dict(settings.annotations) | (metadata.get("annotations") or {}):
        metadata["annotations"] = annotations
    spec = dict(given.get("spec") or {})
    asked = [*(spec.get("tolerations") or []), *own_tolerations(workspace)]
    spec["tolerations"] = [*asked, *TOLERATIONS]
    if priority_class := workspace.metadata.annotations.get(PRIORITY_CLASS_ANNOTATION):
        spec.setdefault("priorityClassName", priority_class)
    if affinity := _affinity(workspace):
        spec["affinity"] = {**(spec.get("affinity") or {}), **affinity}
    return {"metadata": metadata, "spec": spec}


def _affinity(workspace: Workspace) -> Object:
    """The nodes that the Workspace's labelSelector names."""
    selector = workspace.resource.label_selector
    wanted = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in sorted(selector.match_labels.items())
        if not is_reserved_label(key)
    ]
    wanted += [
        {
            "key": each["key"],
            "operator": each["operator"],
            **({"values": each["values"]} if each.get("values") else {}),
        }
        for each in selector.match_expressions
        if not is_reserved_label(each["key"])
    ]
    if not wanted:
        return {}
    terms = [{"matchExpressions": wanted}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"nodeAffinity": required}


def _container(
    workspace: Workspace, pod: Pod, container: Container, settings: PodSettings
) -> Object:
    environment: list[Object] = [
        {"name": name, "value": value} for name, value in settings.environment
    ]
    environment += [{"name": "HOME", "value": _TMP_DIR}, {"name": "PYTHONUNBUFFERED", "value": "1"}]
    # The uid is known to who may read the pod, and to nobody whose text the program logs.
    uid = {"fieldRef": {"fieldPath": "metadata.uid"}}
    environment.append({"name": EVENT_NONCE, "valueFrom": uid})
    if pod.hub_secret and container.name == FETCH_WEIGHTS:
        reference = {"name": pod.hub_secret, "key": "HF_TOKEN"}
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    resources: Object = {"requests": {"cpu": "100m", "memory": "256Mi"}}
    if pod.gpus and container.name in (TUNE, SERVE):
        resources["limits"] = {"nvidia.com/gpu": str(pod.gpus)}
    return {
        "name": container.name,
        "image": settings.image,
        "command": ["python", "-m", container.program],
        "args": [str(PATHS["config_dir"] / f"{container.name}.json")],
        "env": environment,
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(pod, workspace),
    }


def _serving() -> Object:
    probe = {"httpGet": {"path": "/health", "port": SERVER_PORT}}
    return {
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        # Large weights take long to load: half an hour until the server has to answer.
        "startupProbe": probe | {"periodSeconds": 2, "failureThreshold": 900},
        "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": probe | {"periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
    }


def _volumes(workspace: Workspace, pod: Pod) -> list[Object]:
    volumes: list[Object] = [
        {"name": "config", "configMap": {"name": _config_map_name(workspace, pod.name)}},
        {"name": "dshm", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    volumes += [{"name": _volume_name(path), "emptyDir": {}} for path in _scratch(workspace, pod)]
    volumes += [{"name": _volume_name(p), **source} for p, source in pod.volumes.items()]
    for secret in dict.fromkeys(pod.secrets):
        items = [{"key": _DOCKER_CONFIG_KEY, "path": "config.json"}]
        volumes.append(
            {
                "name": _secret_volume(secret),
                "secret": {"secretName": secret, "items": items},
            }
        )
    return volumes


def _mounts(pod: Pod, workspace: Workspace) -> list[Object]:
    mounts: list[Object] = [
        {"name": "config", "mountPath": str(PATHS["config_dir"]), "readOnly": True},
        {"name": "dshm", "mountPath": _SHARED_MEMORY_DIR},
        {"name": "tmp", "mountPath": _TMP_DIR},
    ]
    folders = [*_scratch(workspace, pod), *pod.volumes]
    mounts += [{"name": _volume_name(path), "mountPath": str(path)} for path in folders]
    mounts += [
        {
            "name": _secret_volume(secret),
            "mountPath": str(docker_config_path(secret).parent),
            "readOnly": True,
        }
        for secret in dict.fromkeys(pod.secrets)
    ]
    return mounts


def _scratch(workspace: Workspace, pod: Pod) -> list[Path]:
    """The folders that live and die with the pod."""
    wanted = [PATHS["weights_dir"], PATHS["images_dir"]]
    paths = pod_paths(workspace)
    wanted += (
        [paths.source_dir, paths.data_dir, paths.results_dir]
        if pod.name == TUNING
        else [paths.adapter_dir]
    )
    return [path for path in dict.fromkeys(wanted) if path not in pod.volumes]


def _secret_volume(secret: str) -> str:
    """A volume's name, which may have no dots; that of `push.a` is not that of `push-a`."""
    if "." not in secret:
        return _short(f"secret-{secret}")
    plain = secret.replace(".", "-")[: _NAME_MAX_CHARS - len("secret--12345678")]
    return f"secret-{plain}-{hashlib.sha256(secret.encode()).hexdigest()[:8]}"


def _volume_name(path: Path) -> str:
    return _short("-".join(path.parts[1:]).replace(".", "-").replace("_", "-"))


def _config_map_name(workspace: Workspace, pod: str) -> str:
    meta = workspace.metadata
    return _short(f"{meta.name}-{pod}-{meta.generation}")


def _headless_name(workspace: Workspace) -> str:
    return _short(f"{workspace.metadata.name}-headless")


def _short(name: str, limit: int = _NAME_MAX_CHARS) -> str:
    """The name, or when it is too long its beginning and a digest of the whole."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _digest(data: dict[str, str]) -> str:
    text = "\0".join(f"{key}\0{value}" for key, value in sorted(data.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
