"""An installation on a cluster, as who may use it sees it from outside."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Iterator, Sequence
from datetime import UTC, datetime

from flows.doctor import registries, verdicts
from flows.doctor.prefect import ask_prefect
from flows.watcher.lease import LEASE_NAME
from tasks.contract.artifacts import Check
from tasks.contract.errors import KaitoflowError, KubernetesRefused
from tasks.contract.workspace import parse_workspace
from tasks.plan.check import from_error
from tasks.platform.dra_devices import counted_nodes
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object, Seen, name_of
from tasks.settings import settings

_CRD = "workspaces.kaito.sh"
_PART = {"app.kubernetes.io/part-of": "kaitoflow"}
_PROGRAMS = (*verdicts.NEEDED, "prefect")
_POOL = "kaitoflow"
# What a run makes in a namespace: group, resource.
_MADE = (("batch", "jobs"), ("apps", "statefulsets"), ("", "services"), ("", "configmaps"))


async def examine(api: KubeApi, *, namespace: str) -> list[Check]:
    """What a Workspace in this namespace would stumble over, a line for each look."""
    checks: list[Check] = []
    nodes: list[Object] | None = None
    try:
        nodes = await counted_nodes(api)
        checks.append(Check(name="API server", result="ok", detail=f"answers; {len(nodes)} nodes"))
    except KubernetesRefused as error:
        checks.append(_unseen("API server", error))
    except KaitoflowError as error:
        return [from_error("API server", error, result="fail")]
    checks += await _looked("CRD", _definition(api))
    checks += await _looked("programs", _programs(api, namespace))
    checks += await _looked("rights", _own_rights(api, namespace))
    if nodes is not None:
        checks.append(verdicts.gpus(nodes))
    checks += await _looked("storage", _storage(api))
    checks += await _looked("clock", _clock(api, namespace))
    checks += await _looked(registries.NAME, _registries(api, namespace))
    if "PREFECT_API_URL" in os.environ:
        checks += await ask_prefect(_POOL)
    return checks


async def _looked(name: str, look: Awaitable[Sequence[Check]]) -> Sequence[Check]:
    """The lines of a look; where it may not be had, a line that says so."""
    try:
        return await look
    except KaitoflowError as error:
        return [_unseen(name, error)]


def _unseen(name: str, error: KaitoflowError) -> Check:
    return from_error(name, error, result="warn")


async def _definition(api: KubeApi) -> Sequence[Check]:
    return [verdicts.definition(await api.get("CustomResourceDefinition", None, _CRD))]


async def _programs(api: KubeApi, namespace: str) -> Sequence[Check]:
    """The chart's programs, who of them leads, and what they may do in the namespace."""
    found = [
        {"kind": kind, **each}
        for kind in ("Deployment", "StatefulSet")
        for each in await api.find(kind, labels=_PART)
    ]
    by_name = {name: [each for each in found if _component(each) == name] for name in _PROGRAMS}
    checks = [verdicts.program(name, there) for name, there in by_name.items()]
    for watcher in by_name["watcher"][:1]:
        lease = await api.get("Lease", watcher["metadata"]["namespace"], LEASE_NAME)
        checks.append(verdicts.leader(lease, datetime.now(UTC)))
    for worker in by_name["worker"][:1]:
        checks += await _looked("worker's rights", _rights(api, worker, namespace))
    return checks


def _component(found: Seen) -> str:
    return str(found["metadata"].get("labels", {}).get(verdicts.COMPONENT_LABEL, ""))


async def _rights(api: KubeApi, worker: Seen, namespace: str) -> Sequence[Check]:
    """Whether the worker may make in the namespace what runs are made of; the first no is told."""
    meta, pod = worker["metadata"], worker["spec"]["template"]["spec"]
    account = f"system:serviceaccount:{meta['namespace']}:{pod.get('serviceAccountName')}"
    fix = f"name {namespace} in the chart's value namespaces"
    for group, resource in _MADE:
        review = _review("SubjectAccessReview", group, resource, namespace)
        review["spec"]["user"] = account
        answer = await api.create("SubjectAccessReview", None, review)
        what = f"create {resource} in {namespace}"
        if not (answer or {}).get("status", {}).get("allowed"):
            return [verdicts.right("the worker", what, answer or {}, fix=fix)]
    return [Check(name="rights", result="ok", detail=f"the worker may run pods in {namespace}")]


async def _own_rights(api: KubeApi, namespace: str) -> Sequence[Check]:
    review = _review("SelfSubjectAccessReview", "kaito.sh", "workspaces", namespace)
    answer = await api.create("SelfSubjectAccessReview", None, review)
    fix = f"have a cluster's admin bind you to the chart's edit role in {namespace}"
    return [verdicts.right("you", f"create Workspaces in {namespace}", answer or {}, fix=fix)]


def _review(kind: str, group: str, resource: str, namespace: str) -> Object:
    asked = {"group": group, "resource": resource, "verb": "create", "namespace": namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {},
        "spec": {"resourceAttributes": asked},
    }


async def _storage(api: KubeApi) -> Sequence[Check]:
    return [verdicts.storage(await api.find("StorageClass"))]


async def _registries(api: KubeApi, namespace: str) -> Sequence[Check]:
    """Those of the namespace's Workspaces, with the Secrets that may be read."""
    images = [
        image
        for each in await api.find("Workspace", namespace)
        for image in registries.named_images(parse_workspace(each, source=name_of(each)))
    ]
    for kind in ("Deployment", "StatefulSet"):
        workers = await api.find(kind, labels=_PART | {verdicts.COMPONENT_LABEL: "worker"})
        images += [image for each in workers for image in _models_images(each)]
    logins: dict[str, Object | None] = {}
    for name in registries.secrets_of(images):
        with contextlib.suppress(KubernetesRefused):
            logins[name] = await api.get("Secret", namespace, name)
    insecure = settings().insecure_registries
    return await asyncio.to_thread(registries.look, images, logins, insecure=insecure)


def _models_images(worker: Seen) -> Iterator[registries.Named]:
    """An image of the registry that base models come from, where the chart names one."""
    for container in worker["spec"]["template"]["spec"]["containers"]:
        told = {each["name"]: each.get("value", "") for each in container.get("env") or ()}
        if registry := told.get("KAITOFLOW_MODELS_REGISTRY"):
            secret = told.get("KAITOFLOW_MODELS_REGISTRY_SECRET", "")
            yield registries.Named(f"{registry}/models", secret)


async def _clock(api: KubeApi, namespace: str) -> Sequence[Check]:
    """The API server's clock, by when it would have made something: it tells it nowhere else."""
    meta = {"generateName": "kaitoflow-doctor-", "namespace": namespace}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    made = await api.create("ConfigMap", namespace, body, dry_run=True)
    theirs = datetime.fromisoformat((made or {})["metadata"]["creationTimestamp"])
    return [verdicts.clock(theirs, datetime.now(UTC), whose="the API server")]
