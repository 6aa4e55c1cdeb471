"""The Workspaces of this machine: files, and processes that run."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.places.base import (
    Manifest,
    Row,
    Tell,
    age,
    server_not_running,
    user_key_headers,
    with_file_objects,
)
from flows.places.log_choice import LogChoice
from flows.places.next_retuning import next_by_annotations, next_retuning
from flows.view import describe_progress, print_plan
from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import ServerNotReady
from tasks.contract.programs.serving import MergeResult
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.status import ConditionType
from tasks.contract.steps import (
    FETCH_DATASET,
    FETCH_EVALUATION,
    FETCH_SERVING,
    FETCH_START,
    FETCH_WEIGHTS,
    MEASURE,
    PULL_DATASET,
    PUSH,
    SERVE,
    TUNE,
)
from tasks.contract.units import utc_text
from tasks.contract.workspace import Adapter, Manifests, Workspace
from tasks.platform.current import local_platform
from tasks.platform.store import StoredWorkspace, keep_private
from tasks.settings import settings

if TYPE_CHECKING:
    # It knows the API server's client, whose import takes a second.
    from tasks.nodes.garbage.leaks import Leak

_REFUSED = 3
_FOLLOW_S = 0.2
_CONNECT_S, _ANSWER_S = 5.0, 600.0
_FETCHES = (FETCH_WEIGHTS, FETCH_START, PULL_DATASET, FETCH_DATASET, FETCH_EVALUATION)
_FIRST = (*_FETCHES, TUNE, PUSH, FETCH_SERVING, MEASURE)
_LAST = (SERVE,)


class LocalObjects:
    """Looks at Workspaces as `flows.places.base.Objects` describes."""

    namespace = "default"

    def __init__(self) -> None:
        """What is kept under KAITOFLOW_HOME."""
        keep_private(settings().home_dir)
        self._platform = local_platform()
        self._store = self._platform.store

    def rows(self, namespace: str | None, *, wide: bool) -> list[Row]:
        """A line for each Workspace, by namespace and name."""
        return [
            Row(
                stored.workspace.metadata.namespace,
                stored.workspace.metadata.name,
                self._columns(stored, wide=wide),
                _next_retuning(stored.workspace),
            )
            for stored in self._store.list(namespace)
        ]

    def manifests(self, namespace: str | None) -> list[Manifest]:
        """The Workspaces as kubectl would print them."""
        return [_as_manifest(stored) for stored in self._store.list(namespace)]

    def damage(self, namespace: str | None) -> list[str]:
        """Which files cannot be read, and what to do."""
        return [stored.damage for stored in self._store.list(namespace) if stored.damage]

    def find(self, namespace: str, name: str) -> StoredWorkspace | None:
        """A Workspace by name."""
        return self._store.find(namespace, name)

    def is_serving(self, workspace: Workspace) -> bool:
        """Whether the server's process lives."""
        return self._platform.is_serving(workspace)

    def events(self, workspace: Workspace) -> list[RecordedEvent]:
        """What its runs have told."""
        return [*self._store.read_events(workspace)]

    def plan(self, manifests: Manifests, *, push: bool, port: int | None) -> Plan:
        """The verdict of this machine."""
        return asyncio.run(self._plan(manifests, push=push, port=port))

    async def _plan(self, manifests: Manifests, *, push: bool, port: int | None) -> Plan:
        # A third of what `get` would take: to list Workspaces is to plan nothing.
        from tasks.plan.checks import make_plan
        from tasks.plan.look import look

        workspace = manifests.workspace
        seen = await self._platform.look_around(workspace, push=push, port=port)
        world = with_file_objects(seen, manifests)
        found = await look(workspace, world, settings(), list_nodes=None, list_holders=None)
        return make_plan(workspace, world, found)

    def run(self, manifests: Manifests, *, push: bool, port: int | None) -> int:
        """Run the flow in this process."""
        from flows.places.local_run import run_here

        self._platform.expect_no_run(manifests.workspace)
        plan = self.plan(manifests, push=push, port=port)
        print_plan(plan)
        if plan.refused:
            return _REFUSED
        run_here(manifests, push=push, port=port)
        return 0

    def log_lines(
        self, workspace: Workspace, *, step: str | None, follow: bool, previous: bool
    ) -> Iterator[tuple[str, str]]:
        """What the steps' processes wrote."""
        folder = self._store.generation_dir(workspace) / "logs"
        choice = LogChoice(workspace, step)

        def is_live() -> bool:
            says_more = choice.takes_server and self.is_serving(workspace)
            return follow and (says_more or self._platform.run_holder(workspace) is not None)

        return _log_lines(folder, choice, previous=previous, is_live=is_live)

    def ask(self, stored: StoredWorkspace, body: Mapping[str, Any]) -> Iterator[str]:
        """What the server on loopback answers."""
        import httpx2

        assert stored.status.endpoint
        base = stored.status.endpoint.url
        timeout = httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S)
        url = f"{base}/v1/chat/completions"
        with httpx2.stream(
            "POST",
            url,
            json=body,
            headers=user_key_headers(),
            timeout=timeout,
            trust_env=False,
        ) as response:
            if response.status_code != httpx2.codes.OK:
                error = json.loads(response.read())["error"]["message"]
                raise ServerNotReady(
                    f"{base} was asked to answer",
                    f"it said: {error}",
                    "try again",
                )
            yield from response.iter_lines()

    def administer(
        self, stored: StoredWorkspace, path: str, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """What the server on loopback answers to who has the key that it was started with."""
        from tasks.inference.promotion import LiveServer, administer

        key = asyncio.run(self._platform.admin_key(stored.workspace))
        if not key or not stored.status.endpoint:
            raise server_not_running(stored.workspace)
        return asyncio.run(administer(LiveServer(stored.status.endpoint.url, key), path, body))

    def merge(self, stored: StoredWorkspace, adapter: Adapter | None, folder: Path) -> MergeResult:
        """Run the programs here, one after the other."""
        from flows.places.local_run import merge_here

        return merge_here(stored.workspace, adapter, folder)

    def stop(self, workspace: Workspace, tell: Tell) -> list[str]:  # noqa: ARG002
        """Stop the processes; the files stay, so that `run` resumes."""
        stopped = asyncio.run(self._platform.stop(workspace))
        # Found, not read: one whose status is damaged is stopped as well.
        stored = self._store.find(workspace.metadata.namespace, workspace.metadata.name)
        if stored and stored.status.is_true(ConditionType.INFERENCE_READY):
            status = stored.status
            status.set_condition(
                ConditionType.INFERENCE_READY,
                status="False",
                reason="Stopped",
                message="the server was stopped; `kaitoflow run` or the run's form starts it again",
            )
            self._store.write_status(workspace, status)
        return stopped

    def delete(self, workspace: Workspace, tell: Tell) -> None:  # noqa: ARG002
        """Stop the processes and remove the Workspace's folder."""
        asyncio.run(self._platform.delete(workspace))

    def examine(self) -> Sequence[Check]:
        """This machine: disk, memory, GPU, Prefect, the way to models, the clock."""
        from flows.doctor.machine import examine

        return examine(settings())

    def next_retuning(self, workspace: Workspace) -> str:
        """What Prefect's server of this machine says, or the one that is configured."""
        from flows.pools import LOCAL_POOL
        from flows.prefect_server import known_server

        asking = next_retuning(
            workspace,
            pool=LOCAL_POOL,
            prefect=known_server(),
            unasked="as long as `kaitoflow server` runs",
            now=datetime.now(UTC),
        )
        return asyncio.run(asking)

    def retune(self, workspace: Workspace, *, push: bool) -> str:
        """Run the flow in this process."""
        from flows.places.local_run import retune_here

        self._platform.expect_no_run(workspace)
        return retune_here(workspace, push=push)

    def promote(
        self, workspace: Workspace, number: int | None, *, refuse: bool = False, by: str, note: str
    ) -> None:
        """Run the flow in this process."""
        from flows.places.local_run import promote_here

        self._platform.expect_no_run(workspace)
        promote_here(workspace, number, refuse=refuse, by=by, note=note)

    def leaks(self) -> Sequence["Leak"]:
        """Return no leak: no machine is made."""
        return ()

    def collect_leaks(self) -> Sequence["Leak"]:
        """Collect nothing: no machine is made."""
        return ()

    def _columns(self, stored: StoredWorkspace, *, wide: bool) -> dict[str, str]:
        def shown(kind: ConditionType) -> str:
            condition = stored.status.condition(kind)
            return condition.status if condition else "Unknown"

        status = stored.status
        serving = shown(ConditionType.INFERENCE_READY)
        if serving == "True" and not self.is_serving(stored.workspace):
            serving = "False"
        row = {
            "NAME": stored.workspace.metadata.name,
            "INSTANCE": stored.workspace.resource.instance_type,
            "RESOURCEREADY": shown(ConditionType.RESOURCE_READY),
            "INFERENCEREADY": serving,
            "WORKSPACEREADY": shown(ConditionType.WORKSPACE_SUCCEEDED),
        }
        if wide:
            row |= {
                "JOBSTARTED": shown(ConditionType.JOB_STARTED),
                "STATE": status.state,
                "PROGRESS": describe_progress(status.progress).replace("  ", " "),
                "REASON": status.reason,
                "URL": status.endpoint.url if status.endpoint else "",
            }
        return row | {"AGE": age(stored.created)}


def _next_retuning(workspace: Workspace) -> str:
    annotations = workspace.metadata.annotations if workspace.tuning else {}
    return next_by_annotations(annotations, datetime.now(UTC))


def _as_manifest(stored: StoredWorkspace) -> Manifest:
    """The Workspace as the object that kubectl would print."""
    manifest = stored.workspace.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    head = {"apiVersion": stored.workspace.api_version, "kind": "Workspace"}
    metadata = stored.workspace.metadata.model_dump(mode="json", by_alias=True)
    metadata["creationTimestamp"] = utc_text(stored.created)
    status = stored.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return head | manifest | {"metadata": metadata, "status": status}


def _log_lines(
    folder: Path, choice: LogChoice, *, previous: bool, is_live: Callable[[], bool]
) -> Iterator[tuple[str, str]]:
    offsets: dict[str, int] = {}
    while True:
        goes_on = is_live()  # looked at before reading, so that the last lines are not missed
        files = _log_files(folder, previous=previous)
        choice.expect_possible(files)
        chosen = {name: file for name, file in files.items() if choice.takes(name)}
        if choice.word and not chosen and not goes_on:
            raise choice.missing(files)
        for name, file in chosen.items():
            for line in _new_lines(file, offsets, name):
                yield name, line
        if not goes_on:
            return
        time.sleep(_FOLLOW_S)


def _log_files(folder: Path, *, previous: bool) -> dict[str, Path]:
    """Container to its log, in the order in which they run."""
    found = {}
    for path in sorted(folder.glob("*.log")):
        name = path.name.removesuffix(".log")
        if name.endswith(".previous") == previous:
            found[name.removesuffix(".previous")] = path
    pulls = sorted(found.keys() - {*_FIRST, *_LAST})
    return {name: found[name] for name in (*_FIRST, *pulls, *_LAST) if name in found}


def _new_lines(file: Path, offsets: dict[str, int], name: str) -> Iterator[str]:
    if not file.exists():
        return
    if file.stat().st_size < offsets.setdefault(name, 0):
        offsets[name] = 0  # a fresh start of the step began the file anew
    with file.open("rb") as log:
        log.seek(offsets[name])
        for line in log:
            if not line.endswith(b"\n"):
                break
            offsets[name] += len(line)
            yield line.decode(errors="replace").rstrip("\n")
