"""What was seen of an installation, as lines with a verdict and a fix. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal

from tasks.contract.artifacts import Check
from tasks.contract.status import WorkspaceStatus
from tasks.contract.units import duration
from tasks.nodes.selection import gpus_of, hides_gpus
from tasks.platform.wire import Seen, is_condition, name_of

COMPONENT_LABEL = "app.kubernetes.io/component"
VERSION_LABEL = "app.kubernetes.io/version"
# What an installation cannot do without; Prefect's server may be another one's.
NEEDED = ("watcher", "worker")
_CRD_FIX = "kubectl apply --server-side --filename deployments/crds"
_MAX_SKEW_S = 30.0
_LITTLE_DISK_GB, _LITTLE_MEMORY_GIB = 5.0, 4.0
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_WORKER_SILENT_S = 90.0


def definition(crd: Seen | None) -> Check:
    """Whether the cluster knows Workspaces, and keeps all that we write of one."""
    if crd is None:
        return _line("CRD", "fail", "the cluster knows no Workspaces", _CRD_FIX)
    served = {each["name"]: each for each in crd["spec"]["versions"] if each.get("served")}
    ours = served.get("v1beta1")
    if ours is None:
        told = f"kaito.sh serves {', '.join(served) or 'no version'} and not v1beta1"
        return _line("CRD", "fail", told, _CRD_FIX)
    kept = ours["schema"]["openAPIV3Schema"]["properties"]["status"].get("properties", {})
    lost = sorted(_status_fields() - kept.keys())
    if lost:
        told = f"it is of another version: the API server drops status.{', status.'.join(lost)}"
        return _line("CRD", "fail", told, _CRD_FIX)
    return _line("CRD", "ok", f"Workspaces in {', '.join(served)}")


def _status_fields() -> set[str]:
    schema = WorkspaceStatus.model_json_schema(by_alias=True, mode="serialization")
    return set(schema["properties"])


def program(component: str, found: Sequence[Seen]) -> Check:
    """Whether a program of the chart has a ready pod, and is of this version.

    Args: found: its Deployments and StatefulSets, of all releases.
    """
    if not found:
        result: Literal["warn", "fail"] = "fail" if component in NEEDED else "warn"
        fix = "helm install kaitoflow deployments/chart (see its README)"
        if result == "warn":
            fix = f"nothing, where {component} is another one's than the chart's"
        return _line(component, result, "the cluster has none", fix)
    ready = [each for each in found if (each.get("status") or {}).get("readyReplicas")]
    if not ready:
        first = found[0]
        where = f"--namespace {first['metadata']['namespace']}"
        fix = f"kubectl describe {first['kind'].lower()} {name_of(first)} {where}"
        return _line(component, "fail", f"no pod of {name_of(first)} is ready", fix)
    theirs = {(each["metadata"].get("labels") or {}).get(VERSION_LABEL, "") for each in ready}
    told = ", ".join(f"{each['metadata']['namespace']}/{name_of(each)}" for each in ready)
    if theirs - {version("kaitoflow")}:
        said = f"{told} of version {', '.join(sorted(theirs))}, this command's is {_ours()}"
        return _line(component, "warn", said, "helm upgrade, or use a kaitoflow of that version")
    return _line(component, "ok", f"{told}, version {_ours()}")


def _ours() -> str:
    return version("kaitoflow")


def leader(lease: Seen | None, now: datetime) -> Check:
    """Whether a watcher leads now: only that one starts runs."""
    spec = (lease or {}).get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    fix = "kubectl logs deployment/kaitoflow-watcher --namespace kaitoflow"
    if not holder or not renewed:
        return _line("leader", "fail", "no watcher leads, so no run is started", fix)
    silent_s = (now - datetime.fromisoformat(renewed)).total_seconds()
    if silent_s > float(spec.get("leaseDurationSeconds", 15)):
        told = f"{holder} was to lead and is silent for {duration(silent_s)}"
        return _line("leader", "fail", told, fix)
    return _line("leader", "ok", f"{holder} leads")


def right(who: str, what: str, answer: Seen, *, fix: str) -> Check:
    """What the API server answers who asks whether somebody may do something."""
    status = answer.get("status") or {}
    if status.get("allowed"):
        return _line("rights", "ok", f"{who} may {what}")
    said = f" ({status['reason']})" if status.get("reason") else ""
    return _line("rights", "fail", f"{who} may not {what}{said}", fix)


def gpus(nodes: Sequence[Seen]) -> Check:
    """How many GPUs Kubernetes counts; and nodes that have some which it does not count."""
    counted = [gpus_of(node) for node in nodes if is_condition(node, "Ready")]
    uncounted = [name_of(node) for node in nodes if hides_gpus(node)]
    if uncounted:
        told = f"{len(uncounted)} of {len(nodes)} nodes have GPUs that Kubernetes does not count: "
        return _line(
            "GPUs",
            "fail",
            told + ", ".join(uncounted[:5]),
            "install NVIDIA's driver on them, where it is missing, and its device plugin "
            "(the chart's devicePlugin.enabled=true)",
        )
    total = sum(counted)
    if not total:
        told = f"{len(nodes)} nodes, none with a GPU"
        fix = "nothing, where nodes are made for Workspaces (nodes.provisioner) or models are small"
        return _line("GPUs", "warn", told, fix)
    having = sum(map(bool, counted))
    return _line("GPUs", "ok", f"{total} on {having} of {len(nodes)} nodes")


def storage(classes: Sequence[Seen]) -> Check:
    """Whether volumes can be had that name no class, as the chart's PostgreSQL asks for."""
    default = [
        name_of(each)
        for each in classes
        if (each["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
    ]
    if default:
        return _line("storage", "ok", f"StorageClass {', '.join(default)} by default")
    told = f"none of {len(classes)} StorageClasses is the default"
    fix = "name one where a volume is asked for (postgresql.storageClass), or mark one as default"
    return _line("storage", "warn", told, fix)


def clock(theirs: datetime, ours: datetime, *, whose: str) -> Check:
    """Whether two clocks agree: leases, tokens and certificates go by them."""
    apart = abs(theirs - ours)
    if apart <= timedelta(seconds=_MAX_SKEW_S):
        return _line("clock", "ok", f"agrees with {whose}'s")
    told = f"{duration(apart.total_seconds())} apart from {whose}'s"
    return _line("clock", "fail", told, "set this machine's clock (NTP)")


def workers(pool: str, found: Sequence[Mapping[str, Any]], now: datetime) -> Check:
    """Whether a worker asks for the runs of a work pool."""
    heard = {
        str(each["name"]): (now - datetime.fromisoformat(each["last_heartbeat_time"]))
        for each in found
        if each.get("last_heartbeat_time")
    }
    alive = [n for n, silence in heard.items() if silence.total_seconds() < _WORKER_SILENT_S]
    if alive:
        return _line("polling", "ok", f"{', '.join(alive)} asks for runs of pool {pool}")
    told = f"no worker asks for the runs of pool {pool}"
    if heard:
        last = min(heard, key=lambda name: heard[name])
        told += f"; {last} was heard of {duration(heard[last].total_seconds())} ago"
    return _line("polling", "fail", told, "start one: kaitoflow worker, or the chart's")


def room(
    *, free_gb: float, memory_gib: float, home: str, is_writable: bool = True
) -> Iterable[Check]:
    """Whether this machine has the disk and the memory for a small model.

    Args: home: where all is kept. is_writable: whether we may write there.
    """
    disk, elsewhere = f"{free_gb:.0f} GB free under {home}", "set KAITOFLOW_HOME to another folder"
    if not is_writable:
        yield _line("disk", "fail", f"{home} may not be written to", elsewhere)
    elif free_gb < _LITTLE_DISK_GB:
        yield _line("disk", "warn", disk, f"free some, or {elsewhere}")
    else:
        yield _line("disk", "ok", disk)
    memory = f"{memory_gib:.1f} GiB free"
    if memory_gib < _LITTLE_MEMORY_GIB:
        yield _line("memory", "warn", memory, "end other programs, or take a machine with more")
    else:
        yield _line("memory", "ok", memory)


def devices(names: Collection[str], *, cores: int, problem: str = "") -> Check:
    """What this machine computes on.

    Args: names: of GPUs whose driver answers. problem: why they cannot be used, if so.
    """
    if problem:
        fix = "update the driver (nvidia-smi shows it), or set CUDA_VISIBLE_DEVICES= for the CPU"
        return _line("GPU", "fail", f"{', '.join(names) or 'a GPU'}: {problem}", fix)
    if names:
        return _line("GPU", "ok", ", ".join(names))
    return _line("GPU", "ok", f"none; {cores} CPU cores compute, which does for small models")


def _line(name: str, result: Literal["ok", "warn", "fail"], detail: str, fix: str = "") -> Check:
    return Check(name=name, result=result, detail=detail, fix=fix)
