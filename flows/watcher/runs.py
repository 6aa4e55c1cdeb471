"""A Workspace's generation becomes one flow run, its deletion a release.

Level-triggered: every look at a Workspace asks what should be and ensures it, so a lost event, a
restart or a second look changes nothing. Prefect's idempotency key (uid, generation, attempt) makes
a run started twice one run.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flows.prefect_api import PrefectApi, Run, uid_tag
from flows.watcher.freshness import Freshness
from flows.watcher.settings import WatcherSettings
from flows.worker.deployments import CLUSTER_POOL
from flows.worker.endpoint import poke_worker
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.status import SETTLED_STATES, ConditionType, WorkspaceStatus
from tasks.contract.workspace import (
    FINALIZER,
    STOPPED_ANNOTATION,
    ObjectMeta,
    Workspace,
    parse_workspace,
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
_LONGEST_BACKOFF_S = 600.0


@dataclass
class _Known:
    """What the watcher remembers of a Workspace; forgotten, it is found out again."""

    started: tuple[int, int] | None = None
    releases: int = 0
    asked_s: float = 0.0
    not_before: datetime = datetime(1970, 1, 1, tzinfo=UTC)
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
        """Args: prefect: an open client of the server whose worker runs the deployments."""
        self._platform, self._api = platform, api
        self._prefect, self._settings = prefect, settings
        self._known: dict[str, _Known] = {}
        self._deployments: dict[str, UUID] = {}
        self._freshness = Freshness()
        self._creations = asyncio.Semaphore(_CREATIONS_AT_ONCE)

    async def look(self, manifest: Mapping[str, Any]) -> None:
        """Ensure what a Workspace, as it is now, asks for; one look at a time."""
        meta = manifest["metadata"]
        if not self._is_ours(meta):
            return
        known = self._known.setdefault(meta["uid"], _Known())
        self._freshness.show(meta["uid"], meta["resourceVersion"])
        async with known.lock:
            await self._ensure(manifest, known)

    def forget(self, manifest: Mapping[str, Any]) -> None:
        """A Workspace is gone."""
        self._known.pop(manifest["metadata"]["uid"], None)
        self._freshness.forget(manifest["metadata"]["uid"])

    async def _ensure(self, manifest: Mapping[str, Any], known: _Known) -> None:
        meta = manifest["metadata"]
        if meta.get("deletionTimestamp"):
            if FINALIZER in meta.get("finalizers", []):
                await self._release(manifest, known)
            return
        status = WorkspaceStatus.model_validate(manifest.get("status") or {})
        workspace = await self._parsed(manifest, status)
        if workspace is None:
            return
        if FINALIZER not in meta.get("finalizers", []):
            await self._hold(manifest)
        is_current = status.observed_generation == meta["generation"]
        if STOPPED_ANNOTATION in workspace.metadata.annotations:
            await self._stop(workspace, status)
        elif is_current and _was_asked_to_stop(status):
            await self._start(workspace, known, attempt=await self._next_attempt(workspace, status))
        elif not is_current or status.state not in SETTLED_STATES:
            await self._start(workspace, known, attempt=status.attempt if is_current else 0)

    async def _parsed(
        self, manifest: Mapping[str, Any], status: WorkspaceStatus
    ) -> Workspace | None:
        """The typed Workspace; None, and told in its status, when a rule is broken."""
        try:
            return parse_workspace(dict(manifest), source=manifest["metadata"]["name"])
        except InvalidWorkspace as error:
            refused = status.model_copy(deep=True)
            refused.observed_generation = manifest["metadata"]["generation"]
            refused.state = "Failed"
            refused.set_condition(
                ConditionType.ACCEPTED, status="False", reason=error.reason, message=str(error)
            )
            if refused != status:
                await self._write(ObjectMeta.model_validate(manifest["metadata"]), refused)
            return None

    async def _start(self, workspace: Workspace, known: _Known, *, attempt: int) -> None:
        """Have the run of this generation and attempt; older generations' runs end first."""
        generation = workspace.metadata.generation
        if known.started == (generation, attempt) or datetime.now(UTC) < known.not_before:
            return
        if generation > 1:
            await self._cancel_runs(workspace.metadata, but_generation=generation)
        parameters = {"workspace": workspace.model_dump(mode="json", by_alias=True)}
        run = await self._create_run("run-workspace", workspace.metadata, attempt, parameters)
        if run.state_type == "CRASHED":
            await self._again_later(workspace, known, attempt)
            return
        known.started = (generation, attempt)
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

    async def _again_later(self, workspace: Workspace, known: _Known, attempt: int) -> None:
        """Plan the next attempt of a run that was lost; each waits twice as long as the last."""
        self._wait(known, attempt)
        status = await self._status(workspace.metadata)
        status.observed_generation, status.attempt = workspace.metadata.generation, attempt + 1
        await self._write(workspace.metadata, status)
        logger.warning("run lost workspace=%s attempt=%d", workspace, attempt)

    def _wait(self, known: _Known, attempt: int) -> None:
        pause_s = min(self._settings.backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
        known.not_before = datetime.now(UTC) + timedelta(seconds=pause_s)

    async def _next_attempt(self, workspace: Workspace, status: WorkspaceStatus) -> int:
        status = status.model_copy(deep=True)
        status.attempt, status.state, status.conditions = status.attempt + 1, "Pending", []
        await self._write(workspace.metadata, status)
        return status.attempt

    async def _stop(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """End the run, its pods and the server; nodes go back, other things stay for the next."""
        if _was_asked_to_stop(status):
            return
        meta = workspace.metadata
        await self._cancel_runs(meta)
        # The run that would give nodes back on being cancelled may have ended long ago.
        parameters = {"metadata": meta.model_dump(mode="json", by_alias=True)}
        await self._create_run("stop-workspace", meta, status.attempt, parameters)
        status = await self._status(meta)
        status.observed_generation, status.state = meta.generation, "Stopped"
        status.cost = status.cost.holding((), datetime.now(UTC))
        for kind in (ConditionType.INFERENCE_READY, ConditionType.WORKSPACE_SUCCEEDED):
            status.set_condition(
                kind,
                status="False",
                reason="StopRequested",
                message=f"annotation {STOPPED_ANNOTATION} is set; remove it to run again",
            )
        await self._write(meta, status)
        await self._platform.stop(workspace)

    async def _release(self, manifest: Mapping[str, Any], known: _Known) -> None:
        """Cancel what runs, then start the way back; a release that was lost is started again."""
        if datetime.now(UTC) < known.not_before:
            return
        meta = ObjectMeta.model_validate(manifest["metadata"])
        await self._cancel_runs(meta)
        parameters = {"metadata": meta.model_dump(mode="json", by_alias=True)}
        run = await self._create_run("release-workspace", meta, known.releases, parameters)
        if run.state_type in ("CRASHED", "FAILED", "CANCELLED"):
            self._wait(known, known.releases)
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
        """Put our finalizer on: the object stays until everything of it has gone."""
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
        return WorkspaceStatus.model_validate((found or {}).get("status") or {})

    async def _write(self, meta: ObjectMeta, status: WorkspaceStatus) -> None:
        patch = status_patch(meta.uid, status)
        await self._api.merge("Workspace", meta.namespace, meta.name, patch, subresource="status")

    async def look_at_server(self, pod: Mapping[str, Any], *, is_gone: bool) -> None:
        """Keep InferenceReady true to a server's pod when no run does."""
        meta = pod["metadata"]
        if not self._is_ours(meta):
            return
        name = meta["labels"].get(WORKSPACE_LABEL, "")
        found = await self._api.get("Workspace", meta["namespace"], name)
        if not found or found["metadata"].get("deletionTimestamp"):
            return
        status = WorkspaceStatus.model_validate(found.get("status") or {})
        if str(status.served_generation) != meta["labels"].get(GENERATION_LABEL):
            return
        changed = with_readiness(status, None if is_gone else pod)
        if changed:
            await self._write(ObjectMeta.model_validate(found["metadata"]), changed)

    async def resync(self) -> None:
        """For ever: look at all Workspaces, find lost runs, compare with what the watch saw."""
        self._freshness = Freshness()  # who waited to lead has seen nothing yet
        while True:
            await asyncio.sleep(self._settings.resync_s)
            try:
                await self._look_at_all()
            except Exception:
                logger.exception("resync failed; again in %.0f s", self._settings.resync_s)

    async def _look_at_all(self) -> None:
        found = await self._api.find("Workspace")
        manifests = [m for m in found if self._is_ours(m["metadata"])]
        self._freshness.compare(
            {m["metadata"]["uid"]: m["metadata"]["resourceVersion"] for m in manifests}
        )
        lost = await self._lost_runs()
        orphaned = await self._without_run(manifests)
        for manifest in manifests:
            known = self._known.setdefault(manifest["metadata"]["uid"], _Known())
            if manifest["metadata"]["uid"] in lost or manifest in orphaned:
                known.started = None
            try:
                async with known.lock:
                    await self._ensure(manifest, known)
            except Exception:  # of one Workspace: the others are looked at all the same
                logger.exception("look failed workspace=%s", _name(manifest["metadata"]))

    async def _lost_runs(self) -> set[str]:
        """Uids of Workspaces with a run that has crashed."""
        runs = await self._prefect.crashed_runs()
        return {uid for run in runs for uid in run.workspace_uids}

    async def _without_run(self, manifests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Workspaces under way whose run a person has deleted in Prefect.

        Each is asked for on its own, so of many only a few at each resync: those that were not
        asked for the longest.
        """
        waiting = [
            (known.asked_s, manifest)
            for manifest in manifests
            if (known := self._known.get(manifest["metadata"]["uid"])) and known.started
            if (manifest.get("status") or {}).get("state") not in SETTLED_STATES
        ]
        found = []
        for _, manifest in sorted(waiting, key=lambda each: each[0])[:_ASKED_AT_ONCE]:
            uid = manifest["metadata"]["uid"]
            self._known[uid].asked_s = asyncio.get_running_loop().time()
            if not await self._prefect.runs_with([uid_tag(uid)]):
                found.append(manifest)
        return found

    def _is_ours(self, meta: Mapping[str, Any]) -> bool:
        named = self._settings.namespaces
        return not named or meta["namespace"] in named

    @property
    def is_well(self) -> bool:
        """Whether the watch has shown, not too long ago, what a list shows."""
        return self._freshness.age_s < self._settings.watch_dead_s


def _was_asked_to_stop(status: WorkspaceStatus) -> bool:
    condition = status.condition(ConditionType.WORKSPACE_SUCCEEDED)
    return condition is not None and condition.reason == "StopRequested"


def _name(meta: Mapping[str, Any]) -> str:
    return f"{meta['namespace']}/{meta['name']}"
