"""A Workspace's generation becomes one flow run, its deletion a release.

Level-triggered: every look at a Workspace asks what should be and ensures it, so a lost event, a
restart or a second look changes nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flows.prefect_api import RUN_TAG, PrefectApi, Run
from flows.questions import History, histories_of
from flows.watcher.decide import (
    Action,
    Correct,
    Hold,
    Known,
    Refuse,
    Release,
    Repair,
    Resume,
    Start,
    Stop,
    cancelled,
    decide,
    has_run,
    longest_unasked,
    lost,
    stopped,
)
from flows.watcher.freshness import Freshness
from flows.watcher.metrics import WatcherMetrics
from flows.watcher.owned import Around, as_seen, departures
from flows.watcher.runs import WorkspaceRuns
from flows.watcher.settings import WatcherSettings
from flows.watcher.surroundings import Owner, Surroundings, owner_of
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.happenings import event_body, happenings
from tasks.contract.news import status_news
from tasks.contract.retuning import asks_for_retuning
from tasks.contract.status import Progress, WorkspaceStatus, status_of
from tasks.contract.workspace import FINALIZER, ObjectMeta, Workspace, parse_workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.outbox import event_of, send_event, status_patch
from tasks.settings import settings

logger = logging.getLogger(__name__)

# By whether it restores what is served: the flow of a run, and what that is told.
_FLOWS = {False: ("run-workspace", "workspace"), True: ("restore-workspace", "metadata")}
# A run that has told its end goes on for a moment, or until the nodes that it gives back are gone.
_AT_WORK_AGAIN_S = 2.0
_ASKED_AT_ONCE = 5
# What leaves together, as by one `kubectl delete`, is one reason for one run.
_TOGETHER_S = 0.3


@dataclass
class _Seen:
    """A Workspace that was looked at, as it was seen last; one look at a time."""

    manifest: Mapping[str, Any] = field(default_factory=dict)
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
        watcher_settings: WatcherSettings,
        *,
        has_claims: bool = False,
        metrics: WatcherMetrics | None = None,
    ) -> None:
        """Start runs by `prefect`, an open client of the server that has the deployments.

        Args:
            has_claims: whether nodes are made for Workspaces here.
            metrics: what is told to Prometheus; None = nobody asks.
        """
        self._metrics = metrics or WatcherMetrics()
        self._platform, self._api = platform, api
        self._settings = watcher_settings
        worker_url = watcher_settings.worker_url
        self._runs = WorkspaceRuns(prefect, metrics=self._metrics, worker_url=worker_url)
        self._seen: dict[str, _Seen] = {}
        self._freshness = Freshness()
        self._surroundings = Surroundings(
            api,
            namespaces=settings().namespaces,
            has_claims=has_claims,
            on_change=self._look_soon,
        )
        self._uids: dict[Owner, str] = {}
        self._changed: set[Owner] = set()
        self._has_listed = False
        self._has_changed = asyncio.Event()

    async def look(self, manifest: Mapping[str, Any]) -> None:
        """Ensure what a Workspace, as it is now, asks for; one look at a time."""
        meta = manifest["metadata"]
        if not settings().serves(meta["namespace"]):
            return
        self._freshness.show(meta["uid"], meta["resourceVersion"])
        await self._ensure(manifest, Around())
        # What is around it is told by other watches, which may show it a moment later.
        self._look_soon(owner_of(manifest))

    def forget(self, manifest: Mapping[str, Any]) -> None:
        """A Workspace is gone."""
        uid = manifest["metadata"]["uid"]
        self._seen.pop(uid, None)
        self._freshness.forget(uid)
        if self._uids.get(owner_of(manifest)) == uid:
            del self._uids[owner_of(manifest)]
            self._surroundings.forget(owner_of(manifest))

    async def _ensure(self, manifest: Mapping[str, Any], around: Around | None = None) -> None:
        """Do what is to be done now; around: None = as it is."""
        uid = manifest["metadata"]["uid"]
        seen = self._seen.setdefault(uid, _Seen())
        self._uids[owner_of(manifest)] = uid
        seen.manifest = manifest
        async with seen.lock:
            around = around or await self._around(manifest)
            for action in decide(manifest, seen.known, datetime.now(UTC), around):
                await self._do(action, manifest, seen.known)

    async def _around(self, manifest: Mapping[str, Any]) -> Around:
        """What there is of a Workspace; what would be told or made again is asked for first.

        A watch may be behind, or have died without a word: what it shows no more has left only
        once the API server has said so. The next look at all Workspaces asks again.
        """
        around, status = self._surroundings.of(manifest), status_of(manifest)
        gone = departures(status, around)
        if not gone and as_seen(status, around) == status:
            return around
        asked = await self._surroundings.asked(manifest, gone)
        if there := [each.what for each in gone if each not in departures(status, asked)]:
            name = _name(manifest["metadata"])
            logger.warning("watch is behind workspace=%s not so=%r", name, ", ".join(there))
        return asked

    async def _do(self, action: Action, manifest: Mapping[str, Any], known: Known) -> None:
        match action:
            case Hold():
                await self._hold(manifest)
            case Refuse() | Resume():
                await self._write(action.meta, action.status, before=status_of(manifest))
            case Correct():
                before, version = status_of(manifest), _version(manifest)
                await self._write(action.meta, action.status, before=before, version=version)
            case Repair():
                await self._repair(action, manifest, known)
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
            await self._runs.cancel(meta, but_generation=meta.generation)
        asked: Workspace | ObjectMeta = meta if start.restores else workspace
        flow, parameter = _FLOWS[start.restores]
        parameters = {parameter: asked.redacted().model_dump(mode="json", by_alias=True)}
        tags = [RUN_TAG, *([start.reason] if start.reason else [])]
        run = await self._runs.ensure(flow, meta, attempt, parameters, tags=tags)
        if run.has_ended and not await self._has_told_its_end(run, meta, attempt, known):
            return
        known.started = (meta.generation, attempt)
        self._metrics.started(generation=meta.generation, attempt=attempt, reason=start.reason)
        logger.info(
            "run ensured workspace=%s run=%s state=%s reason=%r",
            workspace,
            run.name,
            run.state_name,
            start.reason,
        )

    async def _has_told_its_end(
        self, run: Run, meta: ObjectMeta, attempt: int, known: Known
    ) -> bool:
        """Whether the status tells what became of the run; else what follows of it is noted."""
        found = await self._api.get("Workspace", meta.namespace, meta.name)
        status, now = status_of(found), datetime.now(UTC)
        if found is None or has_run(status, generation=meta.generation, attempt=attempt):
            return True
        if await self._runs.was_cancelled_by_a_person(run):
            ended = cancelled(status, generation=meta.generation, now=now)
            await self._write(meta, ended, before=status, version=_version(found))
            logger.info("run cancelled workspace=%s attempt=%d", meta, attempt)
            return False
        known.wait(attempt, backoff_s=self._settings.backoff_s, now=now)
        self._metrics.lost.inc()
        again = lost(status, generation=meta.generation, attempt=attempt)
        await self._write(meta, again, before=status)
        logger.warning("run lost workspace=%s attempt=%d", meta, attempt)
        return False

    async def _repair(self, repair: Repair, manifest: Mapping[str, Any], known: Known) -> None:
        """Have another run of the generation, unless one is still at work, or it has changed."""
        workspace, status = repair.workspace, repair.status
        meta = workspace.metadata
        if await self._runs.at_work(meta.uid):
            later = asyncio.get_running_loop().call_later
            later(_AT_WORK_AGAIN_S, self._look_soon, owner_of(manifest))
            return
        before, version = status_of(manifest), _version(manifest)
        if not await self._write(meta, status, before=before, version=version):
            return  # what has changed is looked at next
        message = f"attempt {status.attempt}: {repair.reason}"
        await send_event(self._api, event_of(workspace, "RunAgain", message))
        again = Start(
            workspace=workspace,
            attempt=status.attempt,
            has_older=False,
            reason=repair.reason,
            restores=status.repairs.restores,
        )
        await self._start(again, known)

    async def _stop(self, stop: Stop) -> None:
        meta = stop.workspace.metadata
        await self._runs.cancel(meta)
        # The run that would give nodes back on being cancelled may have ended long ago.
        parameters = {"metadata": meta.redacted().model_dump(mode="json", by_alias=True)}
        await self._runs.ensure("stop-workspace", meta, stop.attempt, parameters)
        # Before it is told: what was told is not done again by a watcher that comes after this one.
        await self._platform.end_pods(stop.workspace)
        status = await self._status(meta)
        ended = stopped(status, generation=meta.generation, now=datetime.now(UTC))
        await self._write(meta, ended, before=status)

    async def _release(self, release: Release, known: Known) -> None:
        """Have the way back begin; one that was lost is begun again."""
        meta = release.meta
        await self._runs.cancel(meta)
        parameters = {"metadata": meta.redacted().model_dump(mode="json", by_alias=True)}
        run = await self._runs.ensure("release-workspace", meta, release.attempt, parameters)
        if run.state_type in ("CRASHED", "FAILED", "CANCELLED"):
            known.wait(release.attempt, backoff_s=self._settings.backoff_s, now=datetime.now(UTC))
            known.releases += 1

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

    async def _write(
        self,
        meta: ObjectMeta,
        status: WorkspaceStatus,
        *,
        before: WorkspaceStatus,
        version: str = "",
    ) -> bool:
        """Replace the status; conditions that have turned become Events.

        Returns: whether the Workspace is there, and is in this version if one is named.
        """
        patch = status_patch(meta.uid, status, version=version)
        written = await self._api.merge(
            "Workspace", meta.namespace, meta.name, patch, subresource="status"
        )
        if written is None:
            return False
        workspace = Workspace.model_construct(metadata=meta)
        for each in status_news(before, status):
            event = event_of(workspace, each.reason, each.message, is_warning=each.is_warning)
            await send_event(self._api, event)
        if told := happenings(before, status):
            self._runs.tell_soon([event_body(meta, each, status) for each in told])
        return True

    def _look_soon(self, owner: Owner) -> None:
        """Something that a Workspace has is there, gone or another than it was."""
        self._changed.add(owner)
        self._has_changed.set()

    async def keep_true(self) -> None:
        """Look for ever at the Workspaces around which something changes."""
        self._surroundings.begin()
        try:
            async with asyncio.TaskGroup() as looks:
                while True:
                    await self._has_changed.wait()
                    await asyncio.sleep(_TOGETHER_S)
                    self._has_changed.clear()
                    changed, self._changed = self._changed, set()
                    for owner in changed:  # none waits for another's run
                        looks.create_task(self._look_around(owner))
        finally:
            await self._surroundings.stop()

    async def _look_around(self, owner: Owner) -> None:
        seen = self._seen.get(self._uids.get(owner, ""))
        if seen:
            await self._look_safely(seen.manifest)

    async def _look_safely(self, manifest: Mapping[str, Any]) -> None:
        try:
            await self._ensure(manifest)
        except Exception:  # of one Workspace: the others are looked at all the same
            logger.exception("look failed workspace=%s", _name(manifest["metadata"]))

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
        manifests = [m for m in found if settings().serves(m["metadata"]["namespace"])]
        self._freshness.compare(
            {m["metadata"]["uid"]: m["metadata"]["resourceVersion"] for m in manifests}
        )
        for uid in await self._runs.crashed() | await self._without_run(manifests):
            if uid in self._seen:
                self._seen[uid].known.started = None
        await self._free_from_lost_adapter_runs(manifests)
        await asyncio.gather(*map(self._look_safely, manifests))  # none waits for another's run
        self._has_listed = True

    async def _without_run(self, manifests: Sequence[Mapping[str, Any]]) -> set[str]:
        """Uids of Workspaces under way whose run has ended all the same, or was deleted in Prefect.

        Each is asked for on its own, so of many only a few at each resync.
        """
        asked_s = {uid: seen.asked_s for uid, seen in self._seen.items() if seen.known.started}
        found = set()
        for manifest in longest_unasked(manifests, asked_s, limit=_ASKED_AT_ONCE):
            uid = manifest["metadata"]["uid"]
            self._seen[uid].asked_s = asyncio.get_running_loop().time()
            if not await self._runs.at_work(uid):
                found.add(uid)
        return found

    async def _free_from_lost_adapter_runs(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        """Have no Workspace wait for a run on an adapter that is no more, and told nothing."""
        for manifest in manifests:
            status, meta = status_of(manifest), ObjectMeta.model_validate(manifest["metadata"])
            if status.adapter_run is None:
                continue
            run_id = status.adapter_run.flow_run_id
            if any(str(run.id) == run_id for run in await self._runs.at_work(meta.uid)):
                continue
            logger.warning("run on an adapter lost workspace=%s run=%s", meta, run_id)
            freed = status.model_copy(update={"adapter_run": None, "progress": Progress()})
            await self._write(meta, freed, before=status, version=_version(manifest))

    @property
    def is_well(self) -> bool:
        """Whether the watch has shown, not too long ago, what a list shows."""
        return self.watch_age_s < self._settings.watch_dead_s

    @property
    def watch_age_s(self) -> float:
        """For how long the watch has not shown what a list shows."""
        return self._freshness.age_s

    @property
    def manifests(self) -> list[Mapping[str, Any]]:
        """The Workspaces, as they were seen last."""
        return [seen.manifest for seen in self._seen.values()]

    def retunable(self) -> list[Workspace] | None:
        """Those that may ask for a schedule, as they are now; None before all have been seen."""
        if not self._has_listed:
            return None
        found = []
        for manifest in self.manifests:
            meta = manifest["metadata"]
            if "deletionTimestamp" in meta or not asks_for_retuning(meta.get("annotations") or {}):
                continue
            with contextlib.suppress(InvalidWorkspace):  # its status says so
                found.append(parse_workspace(dict(manifest), source=_name(meta)))
        return found

    def histories(self) -> list[History] | None:
        """The adapters of those with one that waits for a word; None before all have been seen."""
        return histories_of(self.manifests) if self._has_listed else None

    @property
    def looks(self) -> int:
        """How many Workspaces are being looked at, or are to be."""
        return len(self._changed) + sum(seen.lock.locked() for seen in self._seen.values())


def _version(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"]["resourceVersion"])


def _name(meta: Mapping[str, Any]) -> str:
    return f"{meta['namespace']}/{meta['name']}"
