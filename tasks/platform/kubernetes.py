"""The platform of a cluster: objects are the API server's, pods are a Job's and a StatefulSet's."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import KaitoflowError, RunSuperseded, ServerNotReady
from tasks.contract.podlog import Event
from tasks.contract.status import WorkspaceStatus, status_of
from tasks.contract.steps import INFERENCE, TUNING
from tasks.contract.workspace import FINALIZER, Workspace
from tasks.platform.base import (
    Address,
    Container,
    Pod,
    PodPaths,
    World,
    docker_config_of,
)
from tasks.platform.diagnosis import describe_waiting, diagnose_pod, diagnosed_error
from tasks.platform.following import ContainerFollower, Informers, Key
from tasks.platform.informer import Informer
from tasks.platform.kube_api import PATIENCE_S, KubeApi, connect
from tasks.platform.manifests import (
    GENERATION_LABEL,
    MANAGED_BY,
    POD_LABEL,
    SERVER_PORT,
    WORKSPACE_LABEL,
    PodSettings,
    config_map,
    docker_config_path,
    job_name,
    object_names,
    pod_paths,
    service_url,
    services,
    stateful_set,
    tuning_job,
    workspace_labels,
)
from tasks.platform.outbox import Outbox
from tasks.platform.ownership import controller_uid, is_in_the_way, is_of, name_taken
from tasks.platform.wire import Object, has_failed, is_pod_ready, name_of
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 5.0
_GONE_TIMEOUT_S = 180.0  # pods may take two minutes to save what they have
_OWNED_KINDS = ("Job", "StatefulSet", "Service", "ConfigMap")


class KubernetesPlatform:
    """Runs pods on a cluster; see `tasks.platform.base.Platform`."""

    is_cluster = True
    progress_every_s = 5.0

    def __init__(
        self, settings: Settings, *, context: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Run pods with the settings' image and deadlines; patience_s: with the API server."""
        self._settings, self._context, self._patience_s = settings, context, patience_s
        self._connecting = asyncio.Lock()
        self._connection: tuple[KubeApi, Informers] | None = None
        self._statuses: dict[str, WorkspaceStatus] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._applied: dict[str, str] = {}

    async def api(self) -> KubeApi:
        """The connection to the API server, made when it is first needed."""
        return (await self._connected())[0]

    async def close(self) -> None:
        """End the watches and the connections."""
        if self._connection:
            api, informers = self._connection
            self._connection = None
            await informers.pods.stop()
            await informers.jobs.stop()
            await api.close()

    async def _connected(self) -> tuple[KubeApi, Informers]:
        async with self._connecting:
            if self._connection is None:
                api = await connect(self._context, patience_s=self._patience_s)
                informers = Informers(
                    pods=Informer(api, "Pod", labels=MANAGED_BY, key=_key),
                    jobs=Informer(api, "Job", labels=MANAGED_BY, key=_key),
                )
                self._connection = (api, informers)
        return self._connection

    async def _watching(self) -> tuple[KubeApi, Informers]:
        api, informers = await self._connected()
        await informers.pods.start()
        await informers.jobs.start()
        return api, informers

    def paths(self, workspace: Workspace, *, model: str, revision: str) -> PodPaths:  # noqa: ARG002
        """Where every pod finds its files; a model's weights are the pod's own."""
        return pod_paths(workspace)

    async def apply(self, workspace: Workspace) -> Workspace:
        """The object as the API server has it; applied, when it came without a uid from a form."""
        if workspace.metadata.uid:
            return workspace
        api = await self.api()
        manifest = workspace.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        manifest |= {"apiVersion": workspace.api_version, "kind": workspace.kind}
        meta = manifest["metadata"] | {"namespace": workspace.metadata.namespace}
        kept = await api.apply(manifest | {"metadata": meta})
        identity = {key: kept["metadata"][key] for key in ("uid", "generation")}
        metadata = workspace.metadata.model_copy(update=identity)
        return workspace.model_copy(update={"metadata": metadata})

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status; as this process wrote it last, since a run is its only writer."""
        known = self._statuses.get(workspace.metadata.uid)
        if known:
            return known.model_copy(deep=True)
        meta = workspace.metadata
        stored = await (await self.api()).get("Workspace", meta.namespace, meta.name)
        return status_of(stored)

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status; a Workspace that is gone, or another of its name, stays as it is.

        During a run it is sent while the run goes on, at the latest when the run ends.
        """
        kept = status.model_copy(deep=True)
        self._statuses[workspace.metadata.uid] = kept
        async with self._outbox(workspace) as outbox:
            outbox.put_status(kept)

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_failure: bool
    ) -> None:
        """An Event on the Workspace, as `kubectl describe` shows it; sent like a status."""
        async with self._outbox(workspace) as outbox:
            outbox.put_event(reason=reason, message=message, is_failure=is_failure)

    @contextlib.asynccontextmanager
    async def _outbox(self, workspace: Workspace) -> AsyncIterator[Outbox]:
        """The run's outbox; without a run one of its own, empty at the end."""
        if outbox := self._outboxes.get(workspace.metadata.uid):
            yield outbox
            return
        outbox = Outbox(await self.api(), workspace)
        yield outbox
        await outbox.flush()

    async def look_around(self, workspace: Workspace, *, push: bool, port: int | None) -> World:
        """What the Workspace names, as far as it is there, and what has the name of its objects."""
        api, namespace = await self.api(), workspace.metadata.namespace
        name = workspace.config_name
        data = await self.read_config_map(workspace, name) if name else None
        secrets = {s: await api.get("Secret", namespace, s) for s in workspace.secret_names}
        names = object_names(workspace)
        there = await asyncio.gather(*(api.get(kind, namespace, each) for kind, each in names))
        pushing = secrets.get(workspace.push_secret)
        return World(
            config_maps={name: data} if name and data is not None else {},
            has_secret=lambda secret: secrets.get(secret) is not None,
            docker_config=docker_config_of(pushing) if pushing else None,
            is_cluster=True,
            push=push,
            taken=tuple(
                about
                for about, found in zip(names, there, strict=True)
                if is_in_the_way(found, workspace)
            ),
            port=port,
        )

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap in the Workspace's namespace; None when there is none."""
        api = await self.api()
        found = await api.get("ConfigMap", workspace.metadata.namespace, name)
        return None if found is None else found.get("data") or {}

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:  # noqa: ARG002
        """Where the Secret is mounted; the checks have found it."""
        return docker_config_path(secret) if secret else None

    @contextlib.asynccontextmanager
    async def hold_run(self, workspace: Workspace) -> AsyncIterator[None]:
        """Begin with no pod of an older generation left, nor one that has failed.

        Who else runs the Workspace is Prefect's to know: there is one run a generation.
        Raises: RunSuperseded: the Workspace has a newer generation, or is gone.
        """
        found = await self._expect_current(workspace)
        await self._remove_outdated(workspace)
        uid = workspace.metadata.uid
        self._statuses[uid] = status_of(found)
        outbox = self._outboxes[uid] = Outbox(await self.api(), workspace)
        try:
            yield
            await outbox.flush()
        except BaseException:
            with contextlib.suppress(KaitoflowError):  # the run has failed already, by another
                await outbox.flush()
            raise
        finally:
            del self._outboxes[uid]
            self._statuses.pop(uid, None)
            for name in (TUNING, INFERENCE):
                self._applied.pop(_applied_key(workspace, name), None)

    async def is_current(self, workspace: Workspace) -> bool:
        """Whether the object is there, in this generation and no newer one."""
        try:
            await self._expect_current(workspace)
        except RunSuperseded:
            return False
        return True

    async def _expect_current(self, workspace: Workspace) -> Object:
        """The object as the API server has it."""
        meta = workspace.metadata
        found = await (await self.api()).get("Workspace", meta.namespace, meta.name)
        now = (found or {}).get("metadata", {})
        if (now.get("uid"), now.get("generation")) != (meta.uid, meta.generation):
            there = f"generation {now['generation']} is there by now" if found else "it is gone"
            raise RunSuperseded(
                f"generation {meta.generation} of workspace {workspace} was to be run",
                f"{there}",
                "nothing to do: the newest generation has a run of its own",
            )
        assert found
        return found

    async def _remove_outdated(self, workspace: Workspace) -> None:
        """No Job but one of this generation that may still end well; and no pod of another.

        A Job that was deleted is gone before its pods are, and two must not push to one tag.
        """
        kept = set()
        for job in await self._own(workspace, "Job"):
            if name_of(job) == job_name(workspace) and not has_failed(job):
                kept.add(job["metadata"]["uid"])
            else:
                await self._remove(workspace, "Job", [job])
        await self._wait_until_gone(workspace, labels={POD_LABEL: TUNING}, but_of=kept)

    async def _wait_until_gone(
        self,
        workspace: Workspace,
        *,
        labels: Mapping[str, str] = MappingProxyType({}),
        but_of: Collection[str] = (),
    ) -> None:
        """Return when the Workspace has no pod with these labels, but of the owners named."""
        api, meta = await self.api(), workspace.metadata
        wanted = workspace_labels(workspace) | dict(labels)
        deadline = asyncio.get_running_loop().time() + _GONE_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            pods = await api.find("Pod", meta.namespace, labels=wanted)
            if all(controller_uid(pod) in but_of for pod in pods):
                return
            await asyncio.sleep(0.5)
        logger.warning("pods still there workspace=%s after_s=%.0f", workspace, _GONE_TIMEOUT_S)

    async def follow(
        self, workspace: Workspace, pod: Pod, container: Container
    ) -> AsyncGenerator[Event | str]:
        """What the container says in the pod of the Job or StatefulSet, until its result."""
        api, informers = await self._watching()
        await self._ensure(workspace, pod)
        follower = ContainerFollower(
            api, informers, key=_key_of(workspace, pod), container=container.name
        )
        async with contextlib.aclosing(follower.lines()) as lines:
            async for said in lines:
                yield said

    async def _ensure(self, workspace: Workspace, pod: Pod) -> None:
        """Have the pod's objects as they should be; asked of the API server once a run.

        A Job that is there stays as it is, with what its pods are told: another version of ours may
        have begun it, and neither may change under a pod that trains.
        """
        manifests = self._manifests(workspace, pod)
        digest = json.dumps(manifests, sort_keys=True)
        key = _applied_key(workspace, pod.name)
        if self._applied.get(key) == digest:
            return
        api = await self.api()
        named = [(each["kind"], name_of(each)) for each in manifests]
        there = {kind: await self._expect_free(workspace, kind, name) for kind, name in named}
        if not there.get("Job"):
            for manifest in manifests:
                await api.apply(manifest)
        self._applied[key] = digest
        if pod.name == INFERENCE:
            await self._note_replaced(workspace)

    async def _note_replaced(self, workspace: Workspace) -> None:
        """An older generation's server ends when the StatefulSet is this one's, and not before."""
        status = await self.read_status(workspace)
        older, newer = status.served_generation, workspace.metadata.generation
        if older not in (None, newer):
            message = f"generation {older} is served no more; generation {newer} takes its place"
            status.server_ended(reason="ServerReplaced", message=message)
            await self.write_status(workspace, status)

    async def _expect_free(self, workspace: Workspace, kind: str, name: str) -> bool:
        """Whether the object is there, as the Workspace's own; False = the name is free.

        What an earlier Workspace of this name has left is waited for: it goes by itself.
        Raises: NameTaken: the object is somebody else's.
        """
        api, clock = await self.api(), asyncio.get_running_loop().time
        deadline = clock() + _GONE_TIMEOUT_S
        while True:
            found = await api.get(kind, workspace.metadata.namespace, name)
            if found is None or is_of(found, workspace):
                return found is not None
            if is_in_the_way(found, workspace) or clock() > deadline:
                raise name_taken(kind, name, workspace)
            await asyncio.sleep(0.5)

    def _manifests(self, workspace: Workspace, pod: Pod) -> list[Object]:
        settings = PodSettings(
            image=self._settings.pod_image,
            job_timeout_s=self._settings.job_timeout_s,
            image_pull_secrets=self._settings.pod_image_pull_secrets,
            environment=tuple(sorted(self._settings.pod_environment.items())),
            labels=tuple(sorted(self._settings.pod_labels.items())),
            annotations=tuple(sorted(self._settings.pod_annotations.items())),
        )
        told = config_map(workspace, pod)
        if pod.name == TUNING:
            return [told, tuning_job(workspace, pod, settings)]
        return [told, *services(workspace, pod), stateful_set(workspace, pod, settings)]

    async def server_address(self, workspace: Workspace, *, port: int | None) -> Address:  # noqa: ARG002
        """Every address of the pod; others reach it through the Workspace's Service."""
        return Address(host="0.0.0.0", port=SERVER_PORT, url=service_url(workspace))  # noqa: S104

    async def ensure_server(
        self, workspace: Workspace, pod: Pod, *, endpoint: Endpoint
    ) -> AsyncGenerator[Event | str]:
        """Have the StatefulSet's pod of this generation ready; what it waits for, as progress."""
        _, informers = await self._watching()
        await self._ensure(workspace, pod)
        key, told = _key_of(workspace, pod), ""
        deadline = asyncio.get_running_loop().time() + self._settings.server_ready_timeout_s
        while True:
            pods = informers.pods.select(key)
            newest = pods[-1] if pods else {}
            if is_pod_ready(newest):
                return
            diagnosis = diagnose_pod(newest) if newest else None
            if diagnosis and diagnosis.is_final:
                raise diagnosed_error(diagnosis)
            waits_for = diagnosis.message if diagnosis else describe_waiting(newest)
            if waits_for != told:
                told = waits_for
                yield {"event": "progress", "phase": waits_for}
            if asyncio.get_running_loop().time() > deadline:
                raise ServerNotReady(
                    f"the server at {endpoint.url} was asked for /health",
                    f"it was not ready within {self._settings.server_ready_timeout_s:.0f} s "
                    f"({waits_for})",
                    "see `kaitoflow logs` or raise KAITOFLOW_SERVER_READY_TIMEOUT_S",
                )
            await informers.pods.wait(key, timeout_s=_LOOK_AGAIN_S)

    async def server_nodes(self, workspace: Workspace, generation: int) -> Collection[str] | None:
        """Names of the nodes on which a generation's server runs; None when it has no server."""
        api, meta = await self.api(), workspace.metadata
        labels = workspace_labels(workspace) | {GENERATION_LABEL: str(generation)}
        servers = await api.find("StatefulSet", meta.namespace, labels=labels)
        if not any(controller_uid(each) == meta.uid for each in servers):
            return None
        pods = await api.find("Pod", meta.namespace, labels=labels | {POD_LABEL: INFERENCE})
        nodes = (str((pod.get("spec") or {}).get("nodeName", "")) for pod in pods)
        return {node for node in nodes if node}

    async def end(self, workspace: Workspace, pod: Pod) -> None:
        """Have the Job, or the StatefulSet, of this generation's pod deleted."""
        kind = "Job" if pod.name == TUNING else "StatefulSet"
        generation = str(workspace.metadata.generation)
        of_pod = [
            each
            for each in await self._own(workspace, kind)
            if each["metadata"].get("labels", {}).get(GENERATION_LABEL) == generation
        ]
        await self._remove(workspace, kind, of_pod)

    async def stop(self, workspace: Workspace) -> list[str]:
        """End the Job with its pods, and the server; the names of what was stopped.

        Of a generation that a newer one has replaced only the Job: the server goes on answering
        until the newer one takes its place.
        """
        api, meta = await self.api(), workspace.metadata
        found = await api.get("Workspace", meta.namespace, meta.name)
        if found and found["metadata"]["generation"] != meta.generation:
            name = job_name(workspace)
            jobs = [job for job in await self._own(workspace, "Job") if name_of(job) == name]
            return await self._remove(workspace, "Job", jobs)
        stopped = await self._delete_owned(workspace, ("Job", "StatefulSet"))
        await self._wait_until_gone(workspace)
        return stopped

    async def delete(self, workspace: Workspace) -> None:
        """Remove everything that was made for the Workspace; return when its pods are gone."""
        await self._delete_owned(workspace, _OWNED_KINDS)
        await self._wait_until_gone(workspace)

    async def _delete_owned(self, workspace: Workspace, kinds: tuple[str, ...]) -> list[str]:
        removed = []
        for kind in kinds:
            removed += await self._remove(workspace, kind, await self._own(workspace, kind))
        return removed

    async def _own(self, workspace: Workspace, kind: str) -> list[Object]:
        """The Workspace's objects of a kind; others may carry the same labels."""
        api, labels = await self.api(), workspace_labels(workspace)
        found = await api.find(kind, workspace.metadata.namespace, labels=labels)
        return [each for each in found if is_of(each, workspace)]

    async def _remove(
        self, workspace: Workspace, kind: str, objects: Collection[Object]
    ) -> list[str]:
        """Have the objects deleted; the names of those that were there."""
        api, namespace = await self.api(), workspace.metadata.namespace
        return [
            f"{kind}/{name_of(each)}"
            for each in objects
            if await api.delete(kind, namespace, name_of(each), uid=each["metadata"]["uid"])
        ]

    async def let_go(self, workspace: Workspace) -> None:
        """Drop our finalizer, so that the API server removes the object."""
        api, meta = await self.api(), workspace.metadata
        found = await api.get("Workspace", meta.namespace, meta.name)
        if not found or found["metadata"]["uid"] != meta.uid:
            return
        others = [f for f in found["metadata"].get("finalizers", []) if f != FINALIZER]
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": found["metadata"]["resourceVersion"],
                "finalizers": others,
            }
        }
        await api.merge("Workspace", meta.namespace, meta.name, patch)

    async def list_workspaces(self) -> list[Object]:
        """Every Workspace of the cluster."""
        return await (await self.api()).find("Workspace")

    async def list_nodes(self) -> list[Object]:
        """Every node of the cluster."""
        return await (await self.api()).find("Node")


def _key(seen: Object) -> Key:
    labels = seen["metadata"].get("labels", {})
    return (
        seen["metadata"]["namespace"],
        labels.get(WORKSPACE_LABEL, ""),
        labels.get(GENERATION_LABEL, ""),
        labels.get(POD_LABEL, ""),
    )


def _key_of(workspace: Workspace, pod: Pod) -> Key:
    meta = workspace.metadata
    return (meta.namespace, meta.name, str(meta.generation), pod.name)


def _applied_key(workspace: Workspace, pod: str) -> str:
    return f"{workspace.metadata.uid} {workspace.metadata.generation} {pod}"
