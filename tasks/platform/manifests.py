"""The Kubernetes objects of a Workspace. Pure: a Workspace and a pod in, manifests out.

Every object is owned by its Workspace, carries the labels by which it is found again, and has a
name that follows from the Workspace's, so that making it twice is making it once.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.contract.judge import judge_key_secret
from tasks.contract.podlog import EVENT_NONCE
from tasks.contract.programs.evaluation import CommandConfig, EvaluationConfig
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.programs.tuning import FIRST_HOST, FIRST_PORT, JOB
from tasks.contract.resources import Resources
from tasks.contract.steps import (
    CANDIDATE,
    FETCH_WEIGHTS,
    INFERENCE,
    MEASURE,
    SCORE,
    SERVE,
    TAGGING,
    TUNE,
    TUNING,
)
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, Pod, PodPaths
from tasks.platform.node_affinity import node_affinity
from tasks.platform.passed_on import (
    PRIORITY_CLASS_ANNOTATION,
    RUNTIME_CLASS_ANNOTATION,
    pod_annotations,
    pod_labels,
    queue_labels,
)
from tasks.platform.tolerations import TOLERATIONS, own_tolerations
from tasks.platform.wire import Object, Seen

MANAGED_BY = {"app.kubernetes.io/managed-by": "kaitoflow"}
WORKSPACE_LABEL = "kaito.sh/workspace"
GENERATION_LABEL = "kaitoflow.io/generation"
POD_LABEL = "kaitoflow.io/pod"
# Of what makes and measures one adapter beside the server: the adapter's number.
CANDIDATE_LABEL = "kaitoflow.io/candidate"
SERVER_PORT, DISTRIBUTED_PORT = 5000, 29500
# Says that the pod's programs tell the pod's uid with each event; older ones tell nothing.
EVENT_NONCE_ANNOTATION = "kaitoflow.io/event-nonce"
LOAD_BALANCER_ANNOTATION = "kaito.sh/enablelb"
# Of a pod: what its containers are told, so that a new text makes a new pod of a server.
CONFIG_DIGEST_ANNOTATION = "kaitoflow.io/config-digest"
# Of a StatefulSet: what its pods are, whichever generation they are named after.
SERVER_DIGEST_ANNOTATION = "kaitoflow.io/server-digest"

_USER = 1000
_NAME_MAX_CHARS = 63
# A StatefulSet's pods carry its name and a hash of ten more characters in a label.
_STATEFUL_SET_MAX_CHARS = 52
# An Indexed Job's pods carry its name and their number in a host name; this has room for 999.
_INDEXED_JOB_MAX_CHARS = 59
# Of an Indexed Job's pods: which one it is, and of which Job.
POD_NUMBER_LABEL = "batch.kubernetes.io/job-completion-index"
_JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
# The pods that Jobs run, and what each does, in their Jobs' names.
_JOBS = {TUNING: "tune", CANDIDATE: "tune", TAGGING: "tag"}
_BACKOFF_LIMIT = 2
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
    "admin_key_file": Path("/mnt/admin/key"),
    "user_keys_file": Path("/mnt/users/keys"),
}
JUDGE_KEY_FILE = Path("/mnt/judge/key")
_TMP_DIR, _SHARED_MEMORY_DIR = "/tmp", "/dev/shm"  # noqa: S108  volumes of the pod's own
_COMMAND_VOLUME = "command-tmp"
_PREPARED_DIR = Path("/mnt/dataset")
_SECRETS_DIR = Path("/mnt/secrets")
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What an installation says of its pods.

    image: has all pod programs. vllm_image: has vLLM, and what serves in front of it.
    environment: variables of every container (a hub mirror, ...).
    job_timeout_s: how long a Job may take in all, with waiting and every new try.
    labels, annotations: of every pod; a Workspace's own win, and those that a pod has by itself.
    priority_class, runtime_class: of every pod whose Workspace names none; "" = none.
    tolerations: of every pod, beside those that it has by itself.
    volumes, mounts: more of them, as in a pod's spec; of all containers that are ours.
    are_nodes_made: whether each Workspace has nodes that were made for it.
    """

    image: str
    job_timeout_s: float
    vllm_image: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    priority_class: str = ""
    runtime_class: str = ""
    tolerations: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    are_nodes_made: bool = False


def pod_paths(workspace: Workspace) -> PodPaths:
    """Where the pods find their files; a dataset that is mounted is prepared beside its volume."""
    downloads = workspace.tuning is not None and bool(workspace.tuning.input.urls)
    return PodPaths(**PATHS, data_dir=PATHS["source_dir"] if downloads else _PREPARED_DIR)


def docker_config_path(secret: str) -> Path:
    """Where a docker-config Secret is mounted; the kubelet brings a changed one up to date."""
    return _SECRETS_DIR / secret / "config.json"


def user_keys_secret(workspace: Workspace) -> str:
    """The Secret whose `keys` open the server to its users; only a person makes it."""
    return f"{workspace.metadata.name}-user-keys"


def admin_key_secret(workspace: Workspace) -> str:
    """The Secret whose `key` opens the server's admin endpoints; only a user makes it."""
    return f"{workspace.metadata.name}-admin-key"


def job_name(workspace: Workspace, pod: str = TUNING, candidate: int | None = None) -> str:
    """The Job of the Workspace's generation that runs a pod: the tuning one, or another."""
    number = _numbered(workspace, candidate)
    limit = _INDEXED_JOB_MAX_CHARS if _is_on_several(workspace) else _NAME_MAX_CHARS
    return _short(f"{workspace.metadata.name}-{_JOBS[pod]}-{number}", limit)


def job_names(workspace: Workspace) -> set[str]:
    """The Jobs that the Workspace's generation itself may have."""
    return {job_name(workspace, pod) for pod in (TUNING, TAGGING)}


def pod_number(pod: Seen) -> int:
    """Which one it is of the pods that its Job has at once; 0 = the one that is followed."""
    return int((pod["metadata"].get("labels") or {}).get(POD_NUMBER_LABEL, 0))


def candidate_config_map_name(workspace: Workspace, candidate: int) -> str:
    """The ConfigMap with what a candidate's containers are told."""
    return _config_map_name(workspace, CANDIDATE, candidate)


def stateful_set_name(workspace: Workspace) -> str:
    """The inference StatefulSet: the Workspace's own name."""
    return _short(workspace.metadata.name, _STATEFUL_SET_MAX_CHARS)


def object_names(workspace: Workspace) -> list[tuple[str, str]]:
    """(kind, name) of every object that the Workspace is made into."""
    names = []
    if workspace.tuning:
        names += [("Job", job_name(workspace))]
        names += [("ConfigMap", _config_map_name(workspace, TUNING))]
    if _is_on_several(workspace):
        names += [("Service", _peers_name(workspace))]
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
    name = _config_map_name(workspace, pod.name, pod.candidate)
    return _object("v1", "ConfigMap", workspace, name, data={**pod.files, **configs})


def job_of(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The Job that runs the pod's containers one after the other, on each of its nodes.

    Of several nodes the first pod speaks for all, and the Job has succeeded when that one has. Any
    other stays until then: where one is lost, all go on together with the one in its place.
    """
    template = _template(workspace, pod, settings)
    *first, last = [_container(workspace, pod, each, settings) for each in pod.containers]
    template["spec"] |= {
        "restartPolicy": "Never",
        "initContainers": first,
        "containers": [last],
    }
    spec = {
        "backoffLimit": _BACKOFF_LIMIT * pod.nodes,
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
                # What a user's command says is final: a new pod would train again for it.
                *(
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": each.name,
                            "operator": "NotIn",
                            "values": [0],
                        },
                    }
                    for each in pod.containers
                    if isinstance(each.config, CommandConfig)
                ),
            ]
        },
        "template": template,
    }
    if pod.nodes > 1:
        spec |= {
            "completionMode": "Indexed",
            "completions": pod.nodes,
            "parallelism": pod.nodes,
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        }
        template["spec"] |= _on_several(workspace, pod, template["spec"].get("affinity") or {})
    name = job_name(workspace, pod.name, pod.candidate)
    job = _object("batch/v1", "Job", workspace, name, spec=spec)
    job["metadata"]["labels"] = queue_labels(workspace) | _labels(workspace, pod)
    return job


def _is_on_several(workspace: Workspace) -> bool:
    return workspace.tuning is not None and workspace.resource.count > 1


def _on_several(workspace: Workspace, pod: Pod, affinity: Object) -> Object:
    """How pods of one Job have a name each, and a node each."""
    apart = {
        "labelSelector": {"matchLabels": _labels(workspace, pod)},
        "topologyKey": "kubernetes.io/hostname",
    }
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    return {"subdomain": _peers_name(workspace), "affinity": affinity | {"podAntiAffinity": rule}}


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
    return _object("v1", "Service", workspace, _peers_name(workspace), spec=spec)


def _peers_environment(workspace: Workspace, pod: Pod) -> list[Object]:
    """Where the first pod is found, and by what those of one Job know each other."""
    job = job_name(workspace, pod.name, pod.candidate)
    host = f"{job}-0.{_peers_name(workspace)}.{workspace.metadata.namespace}.svc"
    uid = {"fieldRef": {"fieldPath": f"metadata.labels['{_JOB_UID_LABEL}']"}}
    return [
        {"name": FIRST_HOST, "value": host},
        {"name": FIRST_PORT, "value": str(DISTRIBUTED_PORT)},
        {"name": JOB, "valueFrom": uid},
    ]


def stateful_set(
    workspace: Workspace, pod: Pod, settings: PodSettings, *, told: str = ""
) -> Object:
    """The StatefulSet whose pod serves: the pod's last container stays, those before prepare it.

    Args: told: digest of what the pods that are there were told; they stay, whatever those that
    take their place are told. Empty = a new text makes new pods.
    """
    labels = _labels(workspace, pod)
    spec: Object = {
        "replicas": 1 if pod.template is None else workspace.resource.count,
        "podManagementPolicy": "Parallel",
        "serviceName": _headless_name(workspace),
        "selector": {"matchLabels": {k: labels[k] for k in (WORKSPACE_LABEL, POD_LABEL)}},
        "template": _server_template(workspace, pod, settings),
    }
    made = _object("apps/v1", "StatefulSet", workspace, stateful_set_name(workspace), spec=spec)
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


def _server_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    if pod.template is not None:
        return _from_users_template(workspace, pod, settings)
    template = _template(workspace, pod, settings)
    *first, last = [_container(workspace, pod, each, settings) for each in pod.containers]
    template["spec"] |= {"initContainers": first, "containers": [last | _serving(pod)]}
    return template


def made_pod(maker: Object) -> Object:
    """The pod that a Job or a StatefulSet would make; its name is the API server's to choose."""
    template, meta = maker["spec"]["template"], maker["metadata"]
    metadata = dict(template.get("metadata") or {})
    metadata |= {"generateName": f"{meta['name']}-", "namespace": meta["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def revision_of(workspace: Workspace, digest: str, data: Object) -> Object:
    """The ControllerRevision of what is served in the Workspace's generation."""
    name = _short(f"{workspace.metadata.name}-served-{workspace.metadata.generation}-{digest}")
    content = {"revision": workspace.metadata.generation, "data": data}
    return _object("apps/v1", "ControllerRevision", workspace, name, **content)


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
    own = {GENERATION_LABEL: str(workspace.metadata.generation), POD_LABEL: pod.name}
    if pod.candidate is not None:
        own[CANDIDATE_LABEL] = str(pod.candidate)
    return workspace_labels(workspace) | own


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
        "terminationGracePeriodSeconds": ceil(pod.grace_s),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*TOLERATIONS, *settings.tolerations, *own_tolerations(workspace)],
        "volumes": [*_volumes(workspace, pod), *settings.volumes],
    }
    # What only talks to a registry needs none of the nodes that are made, which may be gone.
    goes_anywhere = pod.name == TAGGING and settings.are_nodes_made
    affinity = node_affinity(workspace, {}, are_nodes_made=settings.are_nodes_made)
    if affinity and not goes_anywhere:
        spec["affinity"] = affinity
    spec |= _classes(workspace, settings)
    if pulled_with := _pulled_with(workspace, pod, settings):
        spec["imagePullSecrets"] = [{"name": name} for name in pulled_with]
    digest = _digest(config_map(workspace, pod)["data"])
    metadata = {
        "labels": dict(settings.labels) | pod_labels(workspace) | _labels(workspace, pod),
        "annotations": dict(settings.annotations)
        | pod_annotations(workspace)
        | {CONFIG_DIGEST_ANNOTATION: digest, EVENT_NONCE_ANNOTATION: "uid"},
    }
    return {"metadata": metadata, "spec": spec}


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


def _from_users_template(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The user's own pod template, on the Workspace's nodes and found by its labels."""
    assert pod.template is not None
    given = dict(pod.template)
    metadata = dict(given.get("metadata") or {})
    own = pod_labels(workspace) | (metadata.get("labels") or {})
    metadata["labels"] = dict(settings.labels) | own | _labels(workspace, pod)
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


def _container(
    workspace: Workspace, pod: Pod, container: Container, settings: PodSettings
) -> Object:
    if isinstance(container.config, CommandConfig):
        return _users_command(pod, container, container.config, settings)
    environment: list[Object] = []
    if _has_gpus(pod, container) and not pod.has_vllm:
        # PyTorch's allocator then grows its blocks in place: fewer holes that nothing fits into.
        # vLLM shares memory between GPUs in a way that such blocks do not allow.
        # The first of the list, so that an installation's own word comes later and counts.
        environment.append({"name": "PYTORCH_ALLOC_CONF", "value": "expandable_segments:True"})
    environment += [{"name": name, "value": value} for name, value in settings.environment]
    environment += [{"name": "HOME", "value": _TMP_DIR}, {"name": "PYTHONUNBUFFERED", "value": "1"}]
    # The uid is known to who may read the pod, and to nobody whose text the program logs.
    uid = {"fieldRef": {"fieldPath": "metadata.uid"}}
    environment.append({"name": EVENT_NONCE, "valueFrom": uid})
    if pod.nodes > 1 and container.name == TUNE:
        environment += _peers_environment(workspace, pod)
    if pod.hub_secret and container.name == FETCH_WEIGHTS:
        reference = {"name": pod.hub_secret, "key": "HF_TOKEN"}
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return {
        "name": container.name,
        "image": settings.vllm_image if pod.has_vllm else settings.image,
        "command": ["python", "-m", container.program],
        "args": [str(PATHS["config_dir"] / f"{container.name}.json")],
        "env": environment,
        "resources": _resources(pod, container),
        "securityContext": _SECURITY,
        "volumeMounts": [
            *_mounts(pod, workspace),
            *_key_mounts(container),
            *settings.mounts,
        ],
    }


def _users_command(
    pod: Pod, container: Container, config: CommandConfig, settings: PodSettings
) -> Object:
    """A command in an image of the user's own: it reads what was made, and nothing that is secret.

    What the pod's other containers are told, their Secrets and their temporary files are not there.
    """
    told = [*settings.environment, ("HOME", _TMP_DIR), *config.environment]
    reads = (PATHS["weights_dir"], PATHS["results_dir"])
    return {
        "name": container.name,
        "image": config.image,
        # Kubernetes would put variables in the place of $(NAME); nowhere else are there any.
        "command": [word.replace("$(", "$$(") for word in config.words],
        "env": [{"name": name, "value": value} for name, value in told],
        "resources": _resources(pod, container),
        "securityContext": _SECURITY,
        "volumeMounts": [
            *(
                {"name": _volume_name(path), "mountPath": str(path), "readOnly": True}
                for path in reads
            ),
            {"name": _COMMAND_VOLUME, "mountPath": _TMP_DIR},
            {"name": "dshm", "mountPath": _SHARED_MEMORY_DIR},
            *settings.mounts,
        ],
    }


def _has_gpus(pod: Pod, container: Container) -> bool:
    return pod.gpus > 0 and container.name in (TUNE, MEASURE, SCORE, SERVE)


def _resources(pod: Pod, container: Container) -> Object:
    requests: Object = {}
    limits: Object = {}
    if pod.resources:
        requests, limits = amounts(pod.resources)
    if _has_gpus(pod, container):
        limits["nvidia.com/gpu"] = str(pod.gpus)
    return {"requests": requests, "limits": limits}


def amounts(resources: Resources) -> tuple[Object, Object]:
    """The requests and the limits that stand for it, in Kubernetes' names and quantities."""
    by_name = {
        "cpu": (resources.cpu_cores, 1000, "m"),
        "memory": (resources.memory_gib, 1024, "Mi"),
        "ephemeral-storage": (resources.disk_gib, 1024, "Mi"),
    }
    requests, limits = {}, {}
    for name, (amount, per_unit, suffix) in by_name.items():
        requests[name] = f"{ceil(amount.asked * per_unit)}{suffix}"
        if amount.most is not None:
            limits[name] = f"{ceil(amount.most * per_unit)}{suffix}"
    return requests, limits


def _serving(pod: Pod) -> Object:
    probe = {"httpGet": {"path": "/health", "port": SERVER_PORT}}
    # vLLM is started again by the server in front of it, which says that it is not ready meanwhile.
    alive = {"httpGet": {"path": "/live", "port": SERVER_PORT}} if pod.has_vllm else probe
    return {
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        # Large weights take long to load: half an hour until the server has to answer.
        "startupProbe": probe | {"periodSeconds": 2, "failureThreshold": 900},
        "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
    }


def _volumes(workspace: Workspace, pod: Pod) -> list[Object]:
    config_name = _config_map_name(workspace, pod.name, pod.candidate)
    volumes: list[Object] = [
        {"name": "config", "configMap": {"name": config_name}},
        {"name": "dshm", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if pod.name == INFERENCE:
        volumes.append(_key_volume("admin-key", admin_key_secret(workspace), "key"))
    if any(isinstance(container.config, CommandConfig) for container in pod.containers):
        volumes.append({"name": _COMMAND_VOLUME, "emptyDir": {}})
    if any(_asks_a_judge(container) for container in pod.containers):
        secret = judge_key_secret(workspace.metadata.name)
        volumes.append(_key_volume("judge-key", secret, "key"))
    if any(_asks_for_keys(container) for container in pod.containers):
        volumes.append(_key_volume("user-keys", user_keys_secret(workspace), "keys"))
    volumes += [{"name": _volume_name(path), "emptyDir": {}} for path in _scratch(workspace, pod)]
    volumes += [{"name": _volume_name(p), **source} for p, source in pod.volumes.items()]
    for secret in dict.fromkeys(pod.secrets):
        items = [{"key": _DOCKER_CONFIG_KEY, "path": "config.json"}]
        source: Object = {"secretName": secret, "items": items}
        if pod.name == INFERENCE:
            # A registry that lets everybody pull needs none: a server comes back without it.
            source["optional"] = True
        volumes.append({"name": _secret_volume(secret), "secret": source})
    return volumes


def _asks_for_keys(container: Container) -> bool:
    config = container.config
    return isinstance(config, ServerConfig) and config.user_keys_file is not None


def _asks_a_judge(container: Container) -> bool:
    config = container.config
    return isinstance(config, EvaluationConfig) and config.judge is not None


def _key_volume(name: str, secret: str, key: str) -> Object:
    """Optional, so that keys may come, change and go while the server serves."""
    items = [{"key": key, "path": key}]
    return {"name": name, "secret": {"secretName": secret, "optional": True, "items": items}}


def _key_mounts(container: Container) -> list[Object]:
    files = {"admin-key": PATHS["admin_key_file"]} if container.name == SERVE else {}
    if _asks_a_judge(container):
        files["judge-key"] = JUDGE_KEY_FILE
    if _asks_for_keys(container):
        files["user-keys"] = PATHS["user_keys_file"]
    return [
        {"name": name, "mountPath": str(file.parent), "readOnly": True}
        for name, file in files.items()
    ]


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
    if pod.name == TAGGING:
        return [PATHS["images_dir"]]
    wanted = [PATHS["weights_dir"], PATHS["images_dir"]]
    paths = pod_paths(workspace)
    wanted += (
        [paths.adapter_dir]
        if pod.name == INFERENCE
        else [paths.source_dir, paths.data_dir, paths.results_dir]
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


def _config_map_name(workspace: Workspace, pod: str, candidate: int | None = None) -> str:
    return _short(f"{workspace.metadata.name}-{pod}-{_numbered(workspace, candidate)}")


def _numbered(workspace: Workspace, candidate: int | None) -> str:
    """The generation, with the number of a candidate for it."""
    generation = str(workspace.metadata.generation)
    return generation if candidate is None else f"{generation}-c{candidate}"


def _headless_name(workspace: Workspace) -> str:
    return _short(f"{workspace.metadata.name}-headless")


def _peers_name(workspace: Workspace) -> str:
    return _short(f"{workspace.metadata.name}-tune-pods")


def _short(name: str, limit: int = _NAME_MAX_CHARS) -> str:
    """The name, or when it is too long its beginning and a digest of the whole."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _digest(data: dict[str, str]) -> str:
    text = "\0".join(f"{key}\0{value}" for key, value in sorted(data.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
