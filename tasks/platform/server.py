"""The server of a Workspace on a cluster: a StatefulSet that may be an older generation's.

What is asked of it, and how it is kept, restored, ended and told of. That it is made with all that
leads to it is `kubernetes`'s.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import ServerNotReady
from tasks.contract.podlog import Event
from tasks.contract.quantity import parse_quantity
from tasks.contract.status import MadeObject, State, WorkspaceStatus
from tasks.contract.steps import INFERENCE
from tasks.contract.workspace import Workspace
from tasks.platform.base import Platform
from tasks.platform.diagnosis import describe_waiting, diagnose_pod, diagnosed_error
from tasks.platform.following import Key
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import GENERATION_LABEL, POD_LABEL, workspace_labels
from tasks.platform.manifests.naming import stateful_set_name
from tasks.platform.manifests.pod_template import CONFIG_DIGEST_ANNOTATION
from tasks.platform.manifests.serving import SERVER_DIGEST_ANNOTATION
from tasks.platform.own_objects import OwnObjects
from tasks.platform.ownership import controller_uid, fields_digest
from tasks.platform.readiness import tell_of_server
from tasks.platform.served_revision import (
    REVISION,
    served_images,
    served_objects,
    served_revision,
    served_workspace,
)
from tasks.platform.wire import Object, Seen, is_pod_ready, last_standing, name_of

_LOOK_AGAIN_S, _LONGEST_LOOK_S = 5.0, 60.0
# Kubernetes' own, on each pod of a StatefulSet.
_REVISION_LABEL = "controller-revision-hash"


@dataclass(frozen=True, kw_only=True)
class Made:
    """How the pods of a server were made, which what changes beside them leaves as they are.

    generation: that they are named after. told: the digest of what they were told when they began.
    """

    generation: int
    told: str


@dataclass(frozen=True)
class Server:
    """The StatefulSet of a Workspace, with its pods and its Services."""

    own: OwnObjects

    async def gpus(self) -> int:
        """How many GPUs one of its pods asks for; 0 where there is none."""
        found = await self._stateful_set()
        containers = found["spec"]["template"]["spec"]["containers"] if found else ()
        limits = [(each.get("resources") or {}).get("limits") or {} for each in containers]
        return sum(int(parse_quantity(each.get("nvidia.com/gpu", 0))) for each in limits)

    async def made(self, digest: str = "") -> Made | None:
        """How its pods were made; None where there is none, or it is another than of this digest.

        Args: digest: of `server_digest`; empty = whichever it is.
        """
        found = await self._stateful_set()
        if not found:
            return None
        known = found["metadata"].get("annotations", {}).get(SERVER_DIGEST_ANNOTATION)
        if digest and known != digest:
            return None
        meta = found["spec"]["template"]["metadata"]
        told = (meta.get("annotations") or {}).get(CONFIG_DIGEST_ANNOTATION, "")
        return Made(generation=int(meta["labels"][GENERATION_LABEL]), told=told)

    async def has_old_pods(self, pods: Sequence[Seen]) -> bool:
        """Whether one of these is still as it was made before the StatefulSet was changed."""
        found = await self._stateful_set() if pods else None
        if not found:
            return False
        status = found.get("status") or {}
        if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
            return True
        revisions = {pod["metadata"].get("labels", {}).get(_REVISION_LABEL) for pod in pods}
        return revisions != {status.get("updateRevision")}

    async def nodes(self, generation: int) -> Collection[str] | None:
        """Names of the nodes on which a generation's server runs; None when it has no server."""
        api, meta = self.own.api, self.own.workspace.metadata
        labels = workspace_labels(self.own.workspace) | {GENERATION_LABEL: str(generation)}
        servers = await api.find("StatefulSet", meta.namespace, labels=labels)
        if not any(controller_uid(each) == meta.uid for each in servers):
            return None
        pods = await api.find("Pod", meta.namespace, labels=labels | {POD_LABEL: INFERENCE})
        nodes = (str((pod.get("spec") or {}).get("nodeName", "")) for pod in pods)
        return {node for node in nodes if node}

    async def keep(self, manifests: Sequence[Object]) -> Object:
        """The revision that keeps what the server is made of; earlier ones are no more."""
        revision = served_revision(self.own.workspace, manifests)
        name = name_of(revision)
        kept = await self.own.get(REVISION, name)
        if kept is None:
            await self.own.is_there(REVISION, name)
            kept = await self.own.api.apply(revision)
        earlier = [each for each in await self.own.find(REVISION) if name_of(each) != name]
        await self.own.remove(REVISION, earlier)
        return kept

    async def served(self, objects: Sequence[MadeObject]) -> Workspace | None:
        """The Workspace that it serves. Args: as of `restore`."""
        revision = await self._revision(objects)
        return served_workspace(revision) if revision else None

    async def images(self) -> frozenset[str]:
        """Digests of the images that its adapters are of, also where no status tells of it."""
        kept = await self.own.find(REVISION)
        return frozenset(digest for revision in kept for digest in served_images(revision))

    async def restore(
        self, objects: Sequence[MadeObject]
    ) -> tuple[Workspace, list[MadeObject]] | None:
        """Have what is gone or changed of the server as it was; the Workspace that it serves.

        Args: objects: of which it was made. With the Workspace they come as they are by now.
        None = it was not kept, or is kept no more.
        """
        revision = await self._revision(objects)
        if revision is None:
            return None
        known = {(each.kind, each.name): each.digest for each in objects}
        made = []
        for manifest in served_objects(revision):
            about = manifest["kind"], name_of(manifest)
            there = await self.own.get(*about)
            if there is None or fields_digest(there) != known.get(about):
                await self.own.is_there(*about)
                there = await self.own.apply(manifest)
            made.append(there)
        return served_workspace(revision), _made_objects([*made, revision])

    async def end(self) -> None:
        """Have no StatefulSet, no Service and no revision; return when its pods are gone."""
        await self.own.remove_all("StatefulSet", "Service", REVISION)
        await self.own.wait_until_gone(names=(INFERENCE,))

    async def pause(self) -> None:
        """Scale the StatefulSet away, and return when its pods are gone."""
        await self._scale(to=0)
        await self.own.wait_until_gone(names=(INFERENCE,))

    async def resume(self) -> None:
        """Give the StatefulSet its pod again."""
        await self._scale(to=1)

    async def _scale(self, *, to: int) -> None:
        api, namespace = self.own.api, self.own.workspace.metadata.namespace
        for each in await self.own.find("StatefulSet"):
            patch = {"metadata": {"uid": each["metadata"]["uid"]}, "spec": {"replicas": to}}
            await api.merge("StatefulSet", namespace, name_of(each), patch)

    async def _revision(self, objects: Sequence[MadeObject]) -> Object | None:
        name = next((each.name for each in objects if each.kind == REVISION), "")
        return await self.own.get(REVISION, name) if name else None

    async def _stateful_set(self) -> Object | None:
        return await self.own.get("StatefulSet", stateful_set_name(self.own.workspace))


async def wait_until_ready(
    api: KubeApi,
    pods: Informer,
    key: Key,
    *,
    endpoint: Endpoint,
    make_again: Callable[[], Awaitable[None]],
    timeout_s: float,
) -> AsyncGenerator[Event | str]:
    """Yield what the server waits for, as progress, until its pod is ready.

    Args: make_again: makes what was deleted; nobody tells of anything but the pod.
    Raises: ServerNotReady, or what keeps its pod from ever being ready.
    """
    clock, pause_s, told = asyncio.get_running_loop().time, _LOOK_AGAIN_S, ""
    deadline, look_s = clock() + timeout_s, clock() + pause_s
    while True:
        if clock() > look_s:
            await make_again()
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
            look_s = clock() + pause_s
        newest = last_standing(pods.select(key))
        diagnosis = diagnose_pod(newest) if newest else None
        is_final = diagnosis is not None and diagnosis.is_final
        lost = await _lost_node(api, newest) if is_final or is_pod_ready(newest) else ""
        if is_pod_ready(newest) and not lost:
            return
        if diagnosis and is_final and not lost:
            raise diagnosed_error(diagnosis)
        waits_for = diagnosis.message if diagnosis else describe_waiting(newest)
        if lost:
            waits_for = f"Kubernetes to remove the pod of node {lost}, which is gone"
        if waits_for != told:
            told = waits_for
            yield {"event": "progress", "phase": waits_for}
        if clock() > deadline:
            raise ServerNotReady(
                f"the server at {endpoint.url} was asked for /health",
                f"it was not ready within {timeout_s:.0f} s ({waits_for})",
                "see `kaitoflow logs` or raise KAITOFLOW_SERVER_READY_TIMEOUT_S",
            )
        await pods.wait(key, timeout_s=_LOOK_AGAIN_S)


async def _lost_node(api: KubeApi, pod: Seen) -> str:
    """The node of a pod, if the cluster has it no more; what such a pod says is long past."""
    name = str((pod.get("spec") or {}).get("nodeName", ""))
    return name if name and await api.get("Node", None, name) is None else ""


async def tell_of_serving(platform: Platform, workspace: Workspace, pods: Informer) -> None:
    """Say for ever, while a run is at work, whether what serves beside it still answers.

    The status is the run's to write as long as it lasts, and nobody else would.
    """
    meta = workspace.metadata
    while True:
        # From here to its writing nothing may wait: the run changes it, too.
        status = await platform.read_status(workspace)
        if not status.serves_beside or status.is_server_paused:
            await asyncio.sleep(_LOOK_AGAIN_S)
            continue
        key = (meta.namespace, meta.name, str(status.server_generation), INFERENCE)
        told = status.model_copy(deep=True)
        answers = tell_of_server(told, pods.select(key))
        if told.state.is_of_server:
            told.state = State.READY if answers else State.NOT_READY
        if told != status:
            await platform.write_status(workspace, told)
        await pods.wait(key, timeout_s=_LOOK_AGAIN_S)


def note_made(
    status: WorkspaceStatus, made: Sequence[Object], *, made_in: int, generation: int
) -> None:
    """Keep in the status what the server is made of, what is ours in it, and who made its pods.

    An older generation's server ends when the StatefulSet is another, and not before.
    """
    status.objects = _made_objects(made)
    if status.server_generation not in (None, made_in):
        older = status.served_generation
        message = f"generation {older} is served no more; generation {generation} takes its place"
        status.server_ended(reason="ServerReplaced", message=message)
    status.server_made_in = made_in


def _made_objects(made: Sequence[Object]) -> list[MadeObject]:
    return [
        MadeObject(kind=each["kind"], name=name_of(each), digest=fields_digest(each))
        for each in made
    ]
