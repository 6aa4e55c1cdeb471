"""A Workspace's generation becomes one flow run, its deletion a release.

Level-triggered: every look at a Workspace asks what should be and ensures it, so a lost event, a
restart or a second look changes nothing. Prefect's idempotency key (uid, generation, attempt) makes
a run started twice one run.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flows.prefect_api import PrefectApi, Run, uid_tag
from flows.watcher.decide import (
    Action,
    Hold,
    Known,
    Refuse,
    Release,
    Resume,
    Start,
    Stop,
    decide,
    is_ours,
    longest_unasked,
    lost,
    stopped,
)
from flows.watcher.freshness import Freshness
from flows.watcher.settings import WatcherSettings
from flows.worker.deployments import CLUSTER_POOL
from flows.worker.endpoint import poke_worker
from tasks.contract.status import WorkspaceStatus, status_of
from tasks.contract.workspace import (
    FINALIZER,
    ObjectMeta,
)
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests import GENERATION_LABEL, WORKSPACE_LABEL
from tasks.platform.outbox import status_patch
from tasks.platform.readiness import with_readiness

logger = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 60.0
# Runs that are created at once: the server is no faster with more, and all would wait for the last.
_CREATIONS_AT_ONCE = 4
_LOOK_AGAIN_S = 0.5
_ASKED_AT_ONCE = 5


@dataclass
class _Seen:
    """A Workspace that was looked at; one look at a time."""

    known: Known = field(default_factory=Known)
    asked_s: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Watcher:
    """Workspaces on one side, Prefect's runs on the other."""

    def __init__(
        self,
        platform: KubernetesPlatform,
        api: KubeApi,
        prefect: PrefectApi,
        settings: WatcherSettings,
    ) -> None:
        """Start runs by `prefect`, an open client of the server that has the deployments."""
        self._platform, self._api = platform, api
        self._prefect, self._settings = prefect, settings
        self._seen: dict[str, _Seen] = {}
        self._deployments: dict[str, UUID] = {}
        self._freshness = Freshness()
        self._creations = asyncio.Semaphore(_CREATIONS_AT_ONCE)

    async def look(self, manifest: Mapping[str, Any]) -> None:
        """Ensure what a Workspace, as it is now, asks for; one look at a time."""
        meta = manifest["metadata"]
        if not is_ours(meta, self._settings.namespaces):
            return
        self._freshness.show(meta["uid"], meta["resourceVersion"])
        await self._ensure(manifest)

    def forget(self, manifest: Mapping[str, Any]) -> None:
        """A Workspace is gone."""
        self._seen.pop(manifest["metadata"]["uid"], None)
        self._freshness.forget(manifest["metadata"]["uid"])

    async def _ensure(self, manifest: Mapping[str, Any]) -> None:
        seen = self._seen.setdefault(manifest["metadata"]["uid"], _Seen())
        async with seen.lock:
            for action in decide(manifest, seen.known, datetime.now(UTC)):
                await self._do(action, manifest, seen.known)

    async def _do(self, action: Action, manifest: Mapping[str, Any], known: Known) -> None:
        match action:
            case Hold():
                await self._hold(manifest)
            case Refuse() | Resume():
                await self._write(action.meta, action.status)
            case Stop():
                await self._stop(action)
            case Start():
                await self._start(action, known)
            case Release():
                await self._release(action, known)

    async def _start(self, start: Start, known: Known) -> None:
        """Have the run; one that is there and was lost is planned again, each time later."""
        workspace, attempt = start.workspace, start.attempt
        meta = workspace.metadata
        if start.has_older:
            await self._cancel_runs(meta, but_generation=meta.generation)
        parameters = {"workspace": workspace.model_dump(mode="json", by_alias=True)}
        run = await self._create_run("run-workspace", meta, attempt, parameters)
        if run.state_type == "CRASHED":
            known.wait(attempt, backoff_s=self._settings.backoff_s, now=datetime.now(UTC))
            status = await self._status(meta)
            await self._write(meta, lost(status, generation=meta.generation, attempt=attempt))
            logger.warning("run lost workspace=%s attempt=%d", workspace, attempt)
            return
        known.started = (meta.generation, attempt)
        logger.info("run ensured workspace=%s run=%s state=%s", workspace, run.name, run.state_name)

    async def _create_run(
        self, flow: str, meta: ObjectMeta, attempt: int, parameters: dict[str, Any]
    ) -> Run:
        """The run of this flow, generation and attempt: a new one, or the one that there is.

        The server is not to compare the parameters with the flow's schema: a Workspace has passed
        all its rules here, and Prefect's server, where most of a run's cost is, spent a quarter of
        its time on it.
        """
        body = {
            # As the flow would name it, which then need not ask for another name.
            "name": f"{flow.partition('-')[0]} {meta}",
            "parameters": parameters,
            "enforce_parameter_schema": False,
            "idempotency_key": f"{flow} {meta.uid} {meta.generation} {attempt}",
            "tags": [flow, uid_tag(meta.uid), f"generation:{meta.generation}"],
        }
        async with self._creations:
            run = await self._prefect.create_run(await self._deployment(flow), body)
        if self._settings.worker_url:
            await poke_worker(self._settings.worker_url)
        return run

    async def _deployment(self, flow: str) -> UUID:
        if flow not in self._deployments:
            self._deployments[flow] = await self._prefect.deployment_id(flow, CLUSTER_POOL)
        return self._deployments[flow]

    async def _stop(self, stop: Stop) -> None:
        meta = stop.workspace.metadata
        await self._cancel_runs(meta)
        # The run that would give nodes back on being cancelled may have ended long ago.
        parameters = {"metadata": meta.model_dump(mode="json", by_alias=True)}
        await self._create_run("stop-workspace", meta, stop.attempt, parameters)
        status = await self._status(meta)
        await self._write(meta, stopped(status, generation=meta.generation, now=datetime.now(UTC)))
        await self._platform.stop(stop.workspace)

    async def _release(self, release: Release, known: Known) -> None:
        """Have the way back begin; one that was lost is begun again."""
        meta = release.meta
        await self._cancel_runs(meta)
        parameters = {"metadata": meta.model_dump(mode="json", by_alias=True)}
        run = await self._create_run("release-workspace", meta, release.attempt, parameters)
        if run.state_type in ("CRASHED", "FAILED", "CANCELLED"):
            known.wait(release.attempt, backoff_s=self._settings.backoff_s, now=datetime.now(UTC))
            known.releases += 1

    async def _cancel_runs(self, meta: ObjectMeta, *, but_generation: int | None = None) -> None:
        """Ask a Workspace's runs to end, and wait until they have."""
        tags = ["run-workspace", uid_tag(meta.uid)]
        kept = f"generation:{but_generation}"
        deadline = asyncio.get_running_loop().time() + _CANCEL_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            runs = await self._prefect.runs_with(tags)
            alive = [run for run in runs if not run.has_ended and kept not in run.tags]
            if not alive:
                return
            for run in alive:
                await self._cancel(run)
            await asyncio.sleep(_LOOK_AGAIN_S)
        logger.warning("runs still there uid=%s after_s=%.0f", meta.uid, _CANCEL_TIMEOUT_S)

    async def _cancel(self, run: Run) -> None:
        if run.state_type == "SCHEDULED":
            await self._prefect.set_state(run, "CANCELLED")
        elif run.state_type != "CANCELLING":
            await self._prefect.set_state(run, "CANCELLING")

    async def _hold(self, manifest: Mapping[str, Any]) -> None:
        meta = manifest["metadata"]
        patch = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": [*meta.get("finalizers", []), FINALIZER],
            }
        }
        await self._api.merge("Workspace", meta["namespace"], meta["name"], patch)

    async def _status(self, meta: ObjectMeta) -> WorkspaceStatus:
        found = await self._api.get("Workspace", meta.namespace, meta.name)
        return status_of(found)

    async def _write(self, meta: ObjectMeta, status: WorkspaceStatus) -> None:
        patch = status_patch(meta.uid, status)
        await self._api.merge("Workspace", meta.namespace, meta.name, patch, subresource="status")

    async def look_at_server(self, pod: Mapping[str, Any], *, is_gone: bool) -> None:
        """Keep InferenceReady true to a server's pod when no run does."""
        meta = pod["metadata"]
        if not is_ours(meta, self._settings.namespaces):
            return
        name = meta["labels"].get(WORKSPACE_LABEL, "")
        found = await self._api.get("Workspace", meta["namespace"], name)
        if not found or found["metadata"].get("deletionTimestamp"):
            return
        status = status_of(found)
        if str(status.served_generation) != meta["labels"].get(GENERATION_LABEL):
            return
        changed = with_readiness(status, None if is_gone else pod)
        if changed:
            await self._write(ObjectMeta.model_validate(found["metadata"]), changed)

    async def resync(self) -> None:
        """Look at all Workspaces for ever, find lost runs, compare with what the watch saw."""
        self._freshness = Freshness()  # who waited to lead has seen nothing yet
        while True:
            await asyncio.sleep(self._settings.resync_s)
            try:
                await self._look_at_all()
            except Exception:
                logger.exception("resync failed; again in %.0f s", self._settings.resync_s)

    async def _look_at_all(self) -> None:
        found = await self._api.find("Workspace")
        ours = self._settings.namespaces
        manifests = [m for m in found if is_ours(m["metadata"], ours)]
        self._freshness.compare(
            {m["metadata"]["uid"]: m["metadata"]["resourceVersion"] for m in manifests}
        )
        for uid in await self._lost_runs() | await self._without_run(manifests):
            if uid in self._seen:
                self._seen[uid].known.started = None
        for manifest in manifests:
            try:
                await self._ensure(manifest)
            except Exception:  # of one Workspace: the others are looked at all the same
                logger.exception("look failed workspace=%s", _name(manifest["metadata"]))

    async def _lost_runs(self) -> set[str]:
        """Uids of Workspaces with a run that has crashed."""
        runs = await self._prefect.crashed_runs()
        return {uid for run in runs for uid in run.workspace_uids}

    async def _without_run(self, manifests: Sequence[Mapping[str, Any]]) -> set[str]:
        """Uids of Workspaces under way whose run a person has deleted in Prefect.

        Each is asked for on its own, so of many only a few at each resync.
        """
        asked_s = {uid: seen.asked_s for uid, seen in self._seen.items() if seen.known.started}
        found = set()
        for manifest in longest_unasked(manifests, asked_s, limit=_ASKED_AT_ONCE):
            uid = manifest["metadata"]["uid"]
            self._seen[uid].asked_s = asyncio.get_running_loop().time()
            if not await self._prefect.runs_with([uid_tag(uid)]):
                found.add(uid)
        return found

    @property
    def is_well(self) -> bool:
        """Whether the watch has shown, not too long ago, what a list shows."""
        return self._freshness.age_s < self._settings.watch_dead_s


def _name(meta: Mapping[str, Any]) -> str:
    return f"{meta['namespace']}/{meta['name']}"
