"""The platform of a cluster: objects are the API server's, pods are a Job's and a StatefulSet's."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.contract.artifacts import Endpoint
from tasks.contract.errors import (
    KaitoflowError,
    RunInProgress,
    RunSuperseded,
    SecretUnusable,
)
from tasks.contract.podlog import Event
from tasks.contract.programs.evaluation import CommandConfig
from tasks.contract.status import AdapterRun, Progress, WorkspaceStatus, status_of
from tasks.contract.steps import CANDIDATE, INFERENCE, TUNING
from tasks.contract.workspace import FINALIZER, Workspace, parse_workspace
from tasks.platform.base import (
    Address,
    Container,
    OnAnswer,
    Pod,
    PodPaths,
    World,
)
from tasks.platform.cluster_world import look_around, namespace_rules, read_config_map
from tasks.platform.diagnosis import (
    Diagnosis,
)
from tasks.platform.dra_devices import counted_nodes
from tasks.platform.following import ContainerFollower, Informers, Key, other_pod
from tasks.platform.informer import Informer
from tasks.platform.jobs import OF_JOBS, Jobs
from tasks.platform.kube_api import PATIENCE_S, KubeApi, connect
from tasks.platform.leaving import leave_nodes
from tasks.platform.manifests.config_map import config_map
from tasks.platform.manifests.job import job_of
from tasks.platform.manifests.labels import (
    CANDIDATE_LABEL,
    GENERATION_LABEL,
    MANAGED_BY,
    POD_LABEL,
    WORKSPACE_LABEL,
    pod_number,
)
from tasks.platform.manifests.naming import admin_key_secret, service_url
from tasks.platform.manifests.paths import JUDGE_KEY_FILE, docker_config_path, pod_paths
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.serving import SERVER_PORT, server_digest, services, stateful_set
from tasks.platform.manifests.several_nodes import peers_service
from tasks.platform.named_objects import admin_key_in, docker_config_of
from tasks.platform.namespace_rules import NamespaceRules
from tasks.platform.outbox import Outbox, status_patch
from tasks.platform.own_objects import OwnObjects
from tasks.platform.ownership import (
    expect_asked,
    superseded,
)
from tasks.platform.rehearsal import rehearse
from tasks.platform.served_revision import REVISION
from tasks.platform.server import Server, note_made, tell_of_serving, wait_until_ready
from tasks.platform.wire import (
    Object,
    is_pod_ready,
    name_of,
)
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_REPLACED_AGAIN_S = 1.0
_OWNED_KINDS = ("Job", "StatefulSet", "Service", "ConfigMap", REVISION)


@dataclass(frozen=True)
class _Applied:
    """What was applied for a pod, and by what the informers find the pod."""

    digest: str
    key: Key


class KubernetesPlatform:
    """Runs pods on a cluster; see `tasks.platform.base.Platform`."""

    is_cluster = True
    progress_every_s = 5.0

    def __init__(
        self, settings: Settings, *, context: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Run pods with the settings' image and deadlines; patience_s: with the API server."""
        self._settings, self._context, self._patience_s = settings, context, patience_s
        self.on_answer: OnAnswer | None = None
        self._connecting = asyncio.Lock()
        self._connection: tuple[KubeApi, Informers] | None = None
        self._statuses: dict[str, WorkspaceStatus] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._applied: dict[str, _Applied] = {}

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
                api.on_answer = self.on_answer
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

    def paths(
        self,
        workspace: Workspace,
        *,
        model: str,  # noqa: ARG002
        revision: str,  # noqa: ARG002
        candidate: int | None = None,  # noqa: ARG002
    ) -> PodPaths:
        """Where every pod finds its files; a model's weights are the pod's own."""
        return pod_paths(workspace)

    async def apply(self, workspace: Workspace) -> Workspace:
        """The object as the API server has it: it is applied before its run begins.

        Raises: RunSuperseded, InvalidWorkspace: see `expect_asked`.
        """
        found = await self._expect_current(workspace)
        return expect_asked(parse_workspace(found, source=str(workspace)), workspace)

    async def find(self, namespace: str, name: str) -> Workspace | None:
        """The object as the API server has it."""
        found = await (await self.api()).get("Workspace", namespace, name)
        return parse_workspace(found, source=f"{namespace}/{name}") if found else None

    async def as_it_is(self, workspace: Workspace) -> Workspace:
        """The object as the API server has it now; as it was, where a newer one is run instead."""
        try:
            return await self.apply(workspace)
        except RunSuperseded:
            return workspace

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status; during a run as it wrote it last, since the run is its only writer."""
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
        if workspace.metadata.uid in self._outboxes:
            self._statuses[workspace.metadata.uid] = kept
        async with self._outbox(workspace) as outbox:
            outbox.put_status(kept)

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_warning: bool
    ) -> None:
        """An Event on the Workspace, as `kubectl describe` shows it; sent like a status."""
        async with self._outbox(workspace) as outbox:
            outbox.put_event(reason=reason, message=message, is_warning=is_warning)

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
        status = await self.read_status(workspace)
        return await look_around(await self.api(), workspace, status, push=push, port=port)

    async def namespace_rules(self, workspace: Workspace) -> NamespaceRules:
        """The namespace's ResourceQuotas and LimitRanges; none where they may not be read."""
        return await namespace_rules(await self.api(), workspace)

    async def rehearse(self, workspace: Workspace, pod: Pod) -> list[Diagnosis]:
        """What the namespace's rules and the API server say to the pod and to what makes it."""
        manifests = self._manifests(workspace, pod)
        return await rehearse(await self.api(), workspace, pod, manifests)

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap in the Workspace's namespace; None when there is none."""
        return await read_config_map(await self.api(), workspace, name)

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:  # noqa: ARG002
        """Where the Secret is mounted; the checks have found it."""
        return docker_config_path(secret) if secret else None

    async def pull_logins(self, workspace: Workspace) -> Sequence[bytes]:
        """They are in the Secrets that `tuning.input.imagePullSecrets` names."""
        assert workspace.tuning
        names = workspace.tuning.input.image_pull_secrets
        if not names:
            return ()
        api, namespace = await self.api(), workspace.metadata.namespace
        found = [await api.get("Secret", namespace, name) for name in names]
        logins = []
        for secret in filter(None, found):
            with contextlib.suppress(SecretUnusable):  # a check's to tell
                logins.append(docker_config_of(secret))
        return logins

    @contextlib.asynccontextmanager
    async def hold_run(
        self, workspace: Workspace, *, adapter_run: AdapterRun | None = None
    ) -> AsyncIterator[None]:
        """Begin with no pod of an older generation left, nor one that has failed.

        Who else runs the Workspace is Prefect's to know: there is one run a generation. A run
        beside these stands in the status for as long as it is at work.
        Raises: RunSuperseded: the Workspace has a newer generation, or is gone. RunInProgress.
        """
        found = await self._begun(workspace, adapter_run)
        status, uid = status_of(found), workspace.metadata.uid
        begun = status.adapters.candidate if adapter_run else None
        jobs = await self._jobs(workspace)
        await jobs.remove_outdated(candidate=begun.number if begun else None)
        self._statuses[uid] = status
        outbox = self._outboxes[uid] = Outbox(await self.api(), workspace)
        try:
            async with _beside(self._tell_of_serving(workspace)):
                yield
            await self._rest(workspace)
            await outbox.flush()
        except BaseException as error:
            with contextlib.suppress(KaitoflowError):  # the run has failed already, by another
                # Of one that is cancelled another worker goes on, or a hook tells the end.
                if isinstance(error, Exception) and not isinstance(error, RunSuperseded):
                    await self._rest(workspace)
                await outbox.flush()
            raise
        finally:
            del self._outboxes[uid]
            self._statuses.pop(uid, None)
            for about in [each for each in self._applied if each.startswith(uid)]:
                del self._applied[about]

    async def _begun(self, workspace: Workspace, adapter_run: AdapterRun | None) -> Object:
        """The object as the API server has it, once the run may change it.

        The mark of an adapter's run is written into the very status that was read: so of two runs,
        or of one and a repair by the watcher, only one begins.
        """
        api, meta = await self.api(), workspace.metadata
        while True:
            found = await self._expect_current(workspace)
            status = status_of(found)
            if adapter_run is None:
                _expect_no_adapter_run(workspace, status)
                return found
            if "deletionTimestamp" in found["metadata"]:
                raise superseded(workspace, None)
            asked = f"{adapter_run.flow} of {workspace} was to begin"
            by, generation = adapter_run.flow_run_id, meta.generation
            status.expect_at_rest(asked, generation=generation, by=by)
            status.adapter_run = adapter_run
            patch = status_patch(meta.uid, status, version=found["metadata"]["resourceVersion"])
            about = ("Workspace", meta.namespace, meta.name)
            if written := await api.merge(*about, patch, subresource="status"):
                return written

    async def _rest(self, workspace: Workspace) -> None:
        """Say that no adapter's run is at work any more."""
        status = await self.read_status(workspace)
        if status.adapter_run:
            status.adapter_run, status.progress = None, Progress()
            await self.write_status(workspace, status)

    async def _tell_of_serving(self, workspace: Workspace) -> None:
        _, informers = await self._watching()
        await tell_of_serving(self, workspace, informers.pods)

    async def is_current(self, workspace: Workspace) -> bool:
        """Whether the object is there, in this generation and no newer one."""
        try:
            await self._expect_current(workspace)
        except RunSuperseded:
            return False
        return True

    async def is_being_deleted(self, workspace: Workspace) -> bool:
        """Whether a person has deleted the object, which its finalizer still holds."""
        meta = workspace.metadata
        found = await (await self.api()).get("Workspace", meta.namespace, meta.name)
        now = (found or {}).get("metadata", {})
        return now.get("uid") == meta.uid and "deletionTimestamp" in now

    async def _expect_current(self, workspace: Workspace) -> Object:
        """The object as the API server has it."""
        meta = workspace.metadata
        found = await (await self.api()).get("Workspace", meta.namespace, meta.name)
        now = (found or {}).get("metadata", {})
        if (now.get("uid"), now.get("generation")) != (meta.uid, meta.generation):
            raise superseded(workspace, now.get("generation"))
        assert found
        return found

    async def _own(self, workspace: Workspace) -> OwnObjects:
        return OwnObjects(await self.api(), workspace)

    async def _jobs(self, workspace: Workspace) -> Jobs:
        return Jobs(await self._own(workspace))

    async def _server(self, workspace: Workspace) -> Server:
        return Server(await self._own(workspace))

    async def follow(
        self, workspace: Workspace, pod: Pod, container: Container
    ) -> AsyncGenerator[Event | str]:
        """What the container says in the pod of the Job or StatefulSet, until its result."""
        api, informers = await self._watching()
        key = await self._ensure(workspace, pod)
        follower = ContainerFollower(
            api,
            informers,
            key=key,
            container=container.name,
            make_again=lambda: self._make_again(workspace, pod),
            is_command=isinstance(container.config, CommandConfig),
        )
        async with contextlib.aclosing(follower.lines()) as lines:
            async for said in lines:
                yield said

    async def _ensure(self, workspace: Workspace, pod: Pod) -> Key:
        """Have the pod's objects as they should be; asked of the API server once a run.

        A Job that is there stays as it is, with what its pods are told: another version of ours may
        have begun it, and neither may change under a pod that trains. Only what is gone is made.
        """
        digest = json.dumps(self._manifests(workspace, pod), sort_keys=True)
        run = _applied_key(workspace, pod)
        applied = self._applied.get(run)
        if applied and applied.digest == digest:
            return applied.key
        if pod.name in OF_JOBS:
            jobs = await self._jobs(workspace)
            await jobs.remove_lacking(pod)
            if pod.candidate is not None:
                await jobs.remove_outdated(candidate=pod.candidate)
        named_after, told = await self._as_made(workspace, pod)
        manifests = self._manifests(named_after, pod, told=told)
        named = [(each["kind"], name_of(each)) for each in manifests]
        own = await self._own(workspace)
        there = {kind: await own.is_there(kind, name) for kind, name in named}
        lacking = [each for each in manifests if not (there.get("Job") and there[each["kind"]])]
        if pod.candidate is not None and (outbox := self._outboxes.get(workspace.metadata.uid)):
            await outbox.flush()  # a run that is killed leaves a Job that its successor knows of
        made = [await own.apply(manifest) for manifest in lacking]
        key = _key_of(named_after, pod)
        if pod.name == INFERENCE:
            await self._note_made(workspace, named_after, manifests, made)
            await self._until_replaced(own, key)
        self._applied[run] = _Applied(digest, key)
        return key

    async def _note_made(
        self,
        workspace: Workspace,
        named_after: Workspace,
        manifests: Sequence[Object],
        made: list[Object],
    ) -> None:
        """Keep of what the server is made, to be restored and compared with."""
        made_in, generation = named_after.metadata.generation, workspace.metadata.generation
        made.append(await (await self._server(workspace)).keep(manifests))
        status = await self.read_status(workspace)
        note_made(status, made, made_in=made_in, generation=generation)
        await self.write_status(workspace, status)

    async def _until_replaced(self, own: OwnObjects, key: Key) -> None:
        """Return when no pod is left that the StatefulSet replaces: it would seem to be ready."""
        _, informers = await self._watching()
        while await Server(own).has_old_pods(informers.pods.select(key)):
            await informers.pods.wait(key, timeout_s=_REPLACED_AGAIN_S)

    async def _make_again(self, workspace: Workspace, pod: Pod) -> None:
        """Have what somebody has deleted under a run that is at work, while the run is wanted.

        Raises: RunSuperseded: the Workspace has a newer generation, or is being deleted.
        """
        found = await self._expect_current(workspace)
        if "deletionTimestamp" in found["metadata"]:
            raise superseded(workspace, None)
        if pod.name in OF_JOBS:
            jobs = await self._jobs(workspace)
            await jobs.remove_outdated(candidate=pod.candidate)
            await jobs.remove_mute(pod)
        self._applied.pop(_applied_key(workspace, pod), None)
        await self._ensure(workspace, pod)

    async def _as_made(self, workspace: Workspace, pod: Pod) -> tuple[Workspace, str]:
        """The Workspace in the generation that its objects are named after; what pods were told.

        Where the server of an older one is the very server of this one, it is the older: so an edit
        without effect on what serves changes no object of it, and starts no pod anew.
        """
        if pod.name != INFERENCE:
            return workspace, ""
        digest = server_digest(workspace, pod, self._pod_settings())
        made = await (await self._server(workspace)).made(digest)
        return (workspace.of_generation(made.generation), made.told) if made else (workspace, "")

    async def server_gpus(self, workspace: Workspace) -> int:
        """How many GPUs a pod of the StatefulSet asks for; 0 where there is none."""
        return await (await self._server(workspace)).gpus()

    async def server_nodes(self, workspace: Workspace, generation: int) -> Collection[str] | None:
        """Names of the nodes on which a generation's server runs; None when it has no server."""
        return await (await self._server(workspace)).nodes(generation)

    async def judge_key_file(self, workspace: Workspace) -> Path | None:  # noqa: ARG002
        """Where the Secret is mounted; what is not there is mounted as nothing."""
        return JUDGE_KEY_FILE

    async def admin_key(self, workspace: Workspace) -> str:
        """The first key of the Secret that a user makes for it, if it is there as it is."""
        namespace, name = workspace.metadata.namespace, admin_key_secret(workspace)
        return admin_key_in(await (await self.api()).get("Secret", namespace, name))

    async def renew_server(self, workspace: Workspace, pod: Pod) -> None:
        """Change what the StatefulSet's next pod is told, and leave the one that runs."""
        own = await self._own(workspace)
        made = await Server(own).made()
        if made is None:
            return
        named_after = workspace.of_generation(made.generation)
        manifests = self._manifests(named_after, pod, told=made.told)
        applied = [await own.apply(manifest) for manifest in manifests]
        await self._note_made(workspace, named_after, manifests, applied)

    async def end_server(self, workspace: Workspace) -> None:
        """Have no StatefulSet and no Service; return when its pods are gone."""
        await (await self._server(workspace)).end()

    async def pause_server(self, workspace: Workspace) -> None:
        """Have no pod of the StatefulSet; return when they are gone."""
        await (await self._server(workspace)).pause()

    async def resume_server(self, workspace: Workspace) -> None:
        """Give the StatefulSet its pod again."""
        if await self.restore_server(workspace) is None:
            await (await self._server(workspace)).resume()

    async def restore_server(self, workspace: Workspace) -> Workspace | None:
        """Apply anew what is gone or changed of what the server is made of."""
        status = await self.read_status(workspace)
        restored = await (await self._server(workspace)).restore(status.objects)
        if restored is None:
            return None
        served, objects = restored
        status = await self.read_status(workspace)  # by now it may say more
        if status.objects != objects:
            status.objects = objects
            await self.write_status(workspace, status)
        return served

    async def served(self, workspace: Workspace) -> Workspace | None:
        """The Workspace in the revision that the status names."""
        status = await self.read_status(workspace)
        return await (await self._server(workspace)).served(status.objects)

    async def served_images(self, workspace: Workspace) -> Collection[str]:
        """Digests that its revision has."""
        return await (await self._server(workspace)).images()

    async def await_served(self, workspace: Workspace) -> AsyncGenerator[Event | str]:
        """Have the pod of what is served ready, whatever is deleted meanwhile."""
        api, informers = await self._watching()
        meta, status = workspace.metadata, await self.read_status(workspace)
        assert status.endpoint

        async def make_again() -> None:
            await self._expect_current(workspace)
            await self.restore_server(workspace)

        waiting = wait_until_ready(
            api,
            informers.pods,
            (meta.namespace, meta.name, str(status.server_generation), INFERENCE),
            endpoint=status.endpoint,
            make_again=make_again,
            timeout_s=self._settings.server_ready_timeout_s,
        )
        async with contextlib.aclosing(waiting) as said:
            async for each in said:
                yield each

    async def has_server(self, workspace: Workspace, pod: Pod) -> bool:
        """Whether the StatefulSet is this one's, and its pod is ready."""
        _, informers = await self._watching()
        key = _key_of((await self._as_made(workspace, pod))[0], pod)
        return any(is_pod_ready(each) for each in informers.pods.select(key))

    def _pod_settings(self) -> PodSettings:
        return PodSettings(
            image=self._settings.pod_image,
            vllm_image=self._settings.vllm_image,
            job_timeout_s=self._settings.job_timeout_s,
            image_pull_secrets=self._settings.pod_image_pull_secrets,
            environment=tuple(sorted(self._settings.pod_environment.items())),
            labels=tuple(sorted(self._settings.pod_labels.items())),
            annotations=tuple(sorted(self._settings.pod_annotations.items())),
            priority_class=self._settings.pod_priority_class,
            runtime_class=self._settings.pod_runtime_class,
            tolerations=self._settings.pod_tolerations,
            volumes=self._settings.pod_volumes,
            mounts=self._settings.pod_volume_mounts,
            are_nodes_made=self._settings.makes_nodes,
        )

    def _manifests(self, workspace: Workspace, pod: Pod, *, told: str = "") -> list[Object]:
        settings, config = self._pod_settings(), config_map(workspace, pod)
        if pod.name in OF_JOBS:
            peers = [peers_service(workspace)] if pod.nodes > 1 else []
            return [config, *peers, job_of(workspace, pod, settings)]
        server = stateful_set(workspace, pod, settings, told=told)
        return [config, *services(workspace, pod), server]

    async def server_address(self, workspace: Workspace, *, port: int | None) -> Address:  # noqa: ARG002
        """Every address of the pod; others reach it through the Workspace's Service."""
        return Address(host="0.0.0.0", port=SERVER_PORT, url=service_url(workspace))  # noqa: S104

    async def ensure_server(
        self, workspace: Workspace, pod: Pod, *, endpoint: Endpoint
    ) -> AsyncGenerator[Event | str]:
        """Have the StatefulSet's pod of this generation ready; what it waits for, as progress."""
        api, informers = await self._watching()
        waiting = wait_until_ready(
            api,
            informers.pods,
            await self._ensure(workspace, pod),
            endpoint=endpoint,
            make_again=lambda: self._make_again(workspace, pod),
            timeout_s=self._settings.server_ready_timeout_s,
        )
        async with contextlib.aclosing(waiting) as said:
            async for each in said:
                yield each

    async def leave_nodes(
        self, workspace: Workspace, *, but: Collection[str] = ()
    ) -> Mapping[str, str]:
        """Evict the pods that train on nodes that are taken away soon."""
        api, informers = await self._watching()
        meta, candidate = workspace.metadata, (await self.read_status(workspace)).adapters.candidate
        labels = [TUNING]
        if candidate:
            labels += [f"{pod}{candidate.number}" for pod in (TUNING, CANDIDATE)]
        labels = [
            f"{each}{other_pod(n)}" for each in labels for n in range(workspace.resource.count)
        ]
        keys = [(meta.namespace, meta.name, str(meta.generation), label) for label in labels]
        pods = [pod for key in keys for pod in informers.pods.select(key)]
        return await leave_nodes(api, [p for p in pods if p["spec"].get("nodeName") not in but])

    async def end(self, workspace: Workspace, pod: Pod) -> None:
        """Have the Job, or the StatefulSet, of this generation's pod deleted."""
        own, generation = await self._own(workspace), str(workspace.metadata.generation)
        if pod.name in OF_JOBS:
            await Jobs(own).end(pod)
            return
        of_pod = [
            each
            for each in await own.find("StatefulSet")
            if each["metadata"].get("labels", {}).get(GENERATION_LABEL) == generation
        ]
        await own.remove("StatefulSet", of_pod)

    async def end_tuning(self, workspace: Workspace, *, candidate: int | None = None) -> None:
        """Have the generation's Jobs, or a candidate's, gone with their pods, if not ended."""
        await (await self._jobs(workspace)).end_unfinished(candidate=candidate)

    async def stop(self, workspace: Workspace) -> list[str]:
        """End the Jobs with their pods, and the server; the names of what was stopped.

        Of a generation that a newer one has replaced only the Jobs: the server goes on answering
        until the newer one takes its place.
        """
        own, meta = await self._own(workspace), workspace.metadata
        found = await own.api.get("Workspace", meta.namespace, meta.name)
        if found and found["metadata"]["generation"] != meta.generation:
            return await Jobs(own).remove()
        stopped = await own.remove_all("Job", "StatefulSet")
        await own.wait_until_gone()
        return stopped

    async def end_pods(self, workspace: Workspace) -> None:
        """Have the Jobs and the server of every generation go; their pods may still be ending."""
        await (await self._own(workspace)).remove_all("Job", "StatefulSet")

    async def delete(self, workspace: Workspace) -> None:
        """Remove everything that was made for the Workspace; return when its pods are gone."""
        own = await self._own(workspace)
        await own.remove_all(*_OWNED_KINDS)
        await own.wait_until_gone()

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
        """Every node of the cluster, with the GPUs that pods are given of it."""
        return await counted_nodes(await self.api())

    async def pods_on_nodes(self) -> AsyncGenerator[list[Object]]:
        """Pages of every pod of the cluster that has a node and has not ended."""
        fields = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        async for page in (await self.api()).find_in_pages("Pod", fields=fields):
            yield page


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """While the context lasts, this work is done, which has no end of its own."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Exception):
            logger.error("work beside a run has ended by itself", exc_info=outcome)


def _expect_no_adapter_run(workspace: Workspace, status: WorkspaceStatus) -> None:
    """Return unless an adapter is made or moved for this very generation.

    A newer one is begun once the watcher has ended that run. Raises: RunInProgress.
    """
    run = status.adapter_run
    if run and status.observed_generation == workspace.metadata.generation:
        raise RunInProgress(
            f"a run of {workspace} was to begin",
            f"{run.flow} is at work on it since {run.since}",
            "wait for it, or cancel it in Prefect's UI",
        )


def _key(seen: Object) -> Key:
    labels = seen["metadata"].get("labels", {})
    return (
        seen["metadata"]["namespace"],
        labels.get(WORKSPACE_LABEL, ""),
        labels.get(GENERATION_LABEL, ""),
        labels.get(POD_LABEL, "") + labels.get(CANDIDATE_LABEL, "") + other_pod(pod_number(seen)),
    )


def _key_of(workspace: Workspace, pod: Pod) -> Key:
    meta = workspace.metadata
    return (meta.namespace, meta.name, str(meta.generation), _label_of(pod))


def _label_of(pod: Pod) -> str:
    """What tells a pod from others of its generation; those of two candidates, too."""
    return f"{pod.name}{'' if pod.candidate is None else pod.candidate}"


def _applied_key(workspace: Workspace, pod: Pod) -> str:
    return f"{workspace.metadata.uid} {workspace.metadata.generation} {_label_of(pod)}"
