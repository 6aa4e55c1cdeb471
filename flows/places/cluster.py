"""The Workspaces of a cluster: what its API server keeps, and what its watcher does with them.

Nothing runs here: `run` applies and watches, `stop` and `delete` ask and wait.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flows.cluster import apply, end, watch
from flows.cluster.asked_run import ask_for_run
from flows.cluster.installed import installed_settings, served_check
from flows.cluster.resume import begin_again
from flows.doctor.cluster import examine
from flows.places.base import (
    Manifest,
    Row,
    Tell,
    WrongUsage,
    user_key_headers,
    with_file_objects,
)
from flows.places.events import events_of
from flows.places.kubeconfig import chosen_context
from flows.places.leaks import collect_leaks, find_leaks
from flows.places.log_choice import LogChoice
from flows.places.next_retuning import next_by_annotations, next_retuning
from flows.places.pod_logs import pod_log_lines
from flows.pools import CLUSTER_POOL
from flows.schedules import PROMOTE_FLOW, RETUNE_FLOW
from flows.view import run_view
from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import KaitoflowError, KubernetesRefused, ServerNotReady
from tasks.contract.programs.serving import MergeResult
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.status import WorkspaceStatus, status_of
from tasks.contract.workspace import Adapter, Manifests, Workspace, parse_workspace
from tasks.nodes.current import holders_on
from tasks.nodes.garbage.leaks import Leak
from tasks.plan.check import from_error
from tasks.plan.checks import make_plan
from tasks.plan.look import look
from tasks.plan.rehearsal import rehearse
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests.naming import admin_key_secret, stateful_set_name
from tasks.platform.named_objects import admin_key_in
from tasks.platform.store import StoredWorkspace
from tasks.platform.wire import Object
from tasks.settings import Settings

_ANSWER_S = 600.0
_NOT_FOUND = 404
_GONE = {404, 502, 503}

T = TypeVar("T")


class ClusterObjects:
    """Looks at Workspaces as `flows.places.base.Objects` describes."""

    def __init__(self, settings: Settings, *, context: str | None) -> None:
        """Speak to the cluster of a context of the kubeconfig; None = its current one."""
        self._context, self._settings = chosen_context(context), settings
        self._platform = KubernetesPlatform(settings, context=context)
        self._runner = asyncio.Runner()

    def close(self) -> None:
        """End the connection."""
        self._wait_for(self._platform.close())
        self._runner.close()

    @property
    def namespace(self) -> str:
        """The context's."""
        return self._context.namespace

    def rows(self, namespace: str | None, *, wide: bool) -> list[Row]:
        """The columns and values that the API server prints."""
        return self._wait_for(self._rows(namespace, wide=wide))

    async def _rows(self, namespace: str | None, *, wide: bool) -> list[Row]:
        with _expecting_workspaces("list Workspaces"):
            table = await (await self._api()).table("Workspace", namespace, with_objects=wide)
        columns = [
            (position, column["name"].upper())
            for position, column in enumerate(table["columnDefinitions"])
            if wide or column["priority"] == 0
        ]
        rows, now = [], datetime.now(UTC)
        for row in table["rows"]:
            found, cells = row["object"], row["cells"]
            meta = found["metadata"]
            asked = meta.get("annotations", {}) if found.get("tuning") else {}
            values = {
                heading: "" if cells[position] is None else str(cells[position])
                for position, heading in columns
            }
            next_look = next_by_annotations(asked, now)
            rows.append(Row(meta["namespace"], meta["name"], values, next_look))
        return rows

    def manifests(self, namespace: str | None) -> list[Manifest]:
        """The objects, without what only the API server needs."""
        return self._wait_for(self._manifests(namespace))

    async def _manifests(self, namespace: str | None) -> list[Manifest]:
        with _expecting_workspaces("list Workspaces"):
            found = await (await self._api()).find("Workspace", namespace)
        head = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace"}
        for each in found:
            each["metadata"].pop("managedFields", None)
        return [head | each for each in found]

    def damage(self, namespace: str | None) -> list[str]:  # noqa: ARG002
        """Nothing: the API server keeps whole objects."""
        return []

    def find(self, namespace: str, name: str) -> StoredWorkspace | None:
        """A Workspace by name."""
        return self._wait_for(self._find(namespace, name))

    async def _find(self, namespace: str, name: str) -> StoredWorkspace | None:
        found = await (await self._api()).get("Workspace", namespace, name)
        if found is None:
            return None
        created = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
        return StoredWorkspace(_typed(found), status_of(found), created)

    def is_serving(self, workspace: Workspace) -> bool:
        """Whether a pod of the StatefulSet is ready."""
        return self._wait_for(self._is_serving(workspace))

    async def _is_serving(self, workspace: Workspace) -> bool:
        name, namespace = stateful_set_name(workspace), workspace.metadata.namespace
        found = await (await self._api()).get("StatefulSet", namespace, name)
        return bool(found and found.get("status", {}).get("readyReplicas", 0) > 0)

    def events(self, workspace: Workspace) -> list[RecordedEvent]:
        """The Workspace's Events."""
        return self._wait_for(self._events(workspace))

    async def _events(self, workspace: Workspace) -> list[RecordedEvent]:
        return await events_of(await self._api(), workspace)

    def plan(self, manifests: Manifests, *, push: bool, port: int | None) -> Plan:  # noqa: ARG002
        """The verdict with the cluster's eyes; its API server's rules are one of the checks."""
        _expect_no_port(port)
        return self._wait_for(self._plan(manifests))

    async def _plan(self, manifests: Manifests) -> Plan:
        api, workspace = await self._api(), manifests.workspace
        # On a cluster an image is always pushed.
        seen = await self._platform.look_around(workspace, push=True, port=None)
        world = with_file_objects(seen, manifests)
        namespace = workspace.metadata.namespace
        known = await installed_settings(api, self._settings, namespace=namespace)
        told = await look(
            workspace,
            world,
            known,
            list_nodes=self._platform.list_nodes,
            list_holders=partial(holders_on, self._platform),
            # Pods of ours follow from the installation's settings, which are not known here.
            rehearse=None if workspace.preset else partial(rehearse, workspace, self._platform),
        )
        plan = make_plan(workspace, world, told)
        try:
            await apply.rehearse(api, manifests)
            said = Check(name="API server", result="ok", detail="accepts every object of the file")
        except KaitoflowError as error:
            said = from_error("API server", error, result="fail")
        served = served_check(known, workspace.metadata)
        return plan.model_copy(update={"checks": [*plan.checks, *served, said]})

    def run(self, manifests: Manifests, *, push: bool, port: int | None) -> int:  # noqa: ARG002
        """Apply the file's objects and watch the run that the cluster's watcher starts."""
        _expect_no_port(port)
        workspace, previous_run = self._wait_for(self._apply(manifests))
        name = workspace.metadata.name
        try:
            with run_view(workspace) as view:
                view.applied(self._context.name)
                watching = self._watch(workspace, view.show, previous_run=previous_run)
                status = self._wait_for(watching)
        except KeyboardInterrupt:
            sys.stderr.write(
                f"stopped watching; the run goes on in the cluster: kaitoflow get {name} -w "
                f"watches it, kaitoflow stop {name} ends it\n"
            )
            raise
        view.print_outcome(status)
        return 0

    async def _apply(self, manifests: Manifests) -> tuple[Workspace, str | None]:
        """The Workspace as it is kept, and the run whose end is no news."""
        api, meta = await self._api(), manifests.workspace.metadata
        await apply.rehearse(api, manifests)
        before = await api.get("Workspace", meta.namespace, meta.name)
        workspace = _typed(await apply.apply(api, manifests))
        return workspace, await begin_again(api, workspace, before)

    async def _watch(
        self, workspace: Workspace, show: watch.Show, *, previous_run: str | None
    ) -> WorkspaceStatus:
        api = await self._api()
        return await watch.watch_run(api, workspace, show, previous_run=previous_run)

    def log_lines(
        self, workspace: Workspace, *, step: str | None, follow: bool, previous: bool
    ) -> Iterator[tuple[str, str]]:
        """What the pods' containers wrote."""
        return self._each(self._log_lines(workspace, step, follow=follow, previous=previous))

    async def _log_lines(
        self, workspace: Workspace, step: str | None, *, follow: bool, previous: bool
    ) -> AsyncGenerator[tuple[str, str]]:
        api, choice = await self._api(), LogChoice(workspace, step)

        async def says_more() -> bool:
            meta = workspace.metadata
            status = status_of(await api.get("Workspace", meta.namespace, meta.name))
            if watch.is_under_way(workspace, status):
                return True
            return choice.takes_server and await self._is_serving(workspace)

        lines = pod_log_lines(api, choice, follow=follow, previous=previous, says_more=says_more)
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line

    def ask(self, stored: StoredWorkspace, body: Mapping[str, Any]) -> Iterator[str]:
        """What the Service answers, through the API server: no port has to be forwarded."""
        return self._each(self._ask(stored.workspace, dict(body)))

    def administer(
        self, stored: StoredWorkspace, path: str, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """What the Service answers, through the API server, to who may read its Secret."""
        return self._wait_for(self._administer(stored.workspace, path, body))

    async def _administer(
        self, workspace: Workspace, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        namespace, name = workspace.metadata.namespace, admin_key_secret(workspace)
        key = admin_key_in(await (await self._api()).get("Secret", namespace, name))
        if not key:
            raise ServerNotReady(
                f"the server of workspace {workspace} was to be asked as its administrator",
                f"no key of its is in Secret {namespace}/{name}",
                f"make it: kubectl create secret generic {name} -n {namespace}"
                " --from-literal=key=$(openssl rand -hex 32)",
            )
        lines = self._asked(
            workspace, path.removeprefix("/"), dict(body) if body else None, {"X-API-Key": key}
        )
        answer = "\n".join([line async for line in lines])
        return dict(json.loads(answer)) if answer.startswith("{") else {}

    def merge(self, stored: StoredWorkspace, adapter: Adapter | None, folder: Path) -> MergeResult:
        """Nothing: weights are merged where they lie.

        Raises: WrongUsage.
        """
        del adapter
        raise WrongUsage(
            f"an adapter of {stored.workspace} was to be merged into {folder}",
            "the weights lie on the cluster, and a model is written to where they are",
            "apply what serves the adapter's image on one machine (kaitoflow run FILE --platform"
            " local), and merge it there",
        )

    async def _ask(self, workspace: Workspace, body: Object) -> AsyncGenerator[str]:
        lines = self._asked(workspace, "v1/chat/completions", body, user_key_headers())
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line

    async def _asked(
        self, workspace: Workspace, path: str, body: Object | None, headers: Mapping[str, str]
    ) -> AsyncGenerator[str]:
        meta = workspace.metadata
        lines = (await self._api()).ask_service(
            meta.namespace,
            f"{meta.name}:80",
            path,
            body,
            read_timeout_s=_ANSWER_S,
            headers=headers,
        )
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line.rstrip("\r")
        except KubernetesRefused as error:
            fix = "see `kaitoflow logs`" if error.status in _GONE else "try again"
            raise ServerNotReady(
                f"Service {meta.namespace}/{meta.name} was asked to answer",
                f"it said: {error.said}",
                f"{fix}",
            ) from None

    def stop(self, workspace: Workspace, tell: Tell) -> list[str]:
        """Ask the watcher to end the run and its pods, and wait until none of them is left."""
        return self._wait_for(self._stop(workspace, tell))

    async def _stop(self, workspace: Workspace, tell: Tell) -> list[str]:
        return await end.stop(await self._api(), workspace, tell)

    def delete(self, workspace: Workspace, tell: Tell) -> None:
        """Delete the object, and wait until its finalizer has let it go."""
        self._wait_for(self._delete(workspace, tell))

    async def _delete(self, workspace: Workspace, tell: Tell) -> None:
        await end.delete(await self._api(), workspace, tell)

    def examine(self) -> Sequence[Check]:
        """The installation, as far as who uses the command may see it."""
        return self._wait_for(self._examine())

    async def _examine(self) -> Sequence[Check]:
        return await examine(await self._api(), namespace=self.namespace)

    def next_retuning(self, workspace: Workspace) -> str:
        """What the Prefect server says that PREFECT_API_URL names."""
        asking = next_retuning(
            workspace,
            pool=CLUSTER_POOL,
            prefect=os.environ,
            unasked="whether it is paused only Prefect knows, which PREFECT_API_URL would name",
            now=datetime.now(UTC),
        )
        return self._wait_for(asking)

    def retune(self, workspace: Workspace, *, push: bool) -> str:  # noqa: ARG002
        """Have the cluster's worker retune it, showing the progress; an image is always pushed."""
        said = self._run(RETUNE_FLOW, workspace)
        stored = self.find(workspace.metadata.namespace, workspace.metadata.name)
        return said or (stored.status.adapters.told if stored else "")

    def promote(
        self, workspace: Workspace, number: int | None, *, refuse: bool = False, by: str, note: str
    ) -> None:
        """Have the cluster's worker do it, showing the progress."""
        self._run(PROMOTE_FLOW, workspace, number=number, refuse=refuse, by=by, note=note)

    def _run(self, flow: str, workspace: Workspace, **more: Any) -> str:
        """What a run of a flow came to, where its state says so; it is watched until it ends."""
        meta = workspace.metadata
        with run_view(workspace) as view:
            if before := self.find(meta.namespace, meta.name):
                view.goes_on_from(before.status)

            async def show() -> None:
                if now := await self._find(meta.namespace, meta.name):
                    view.show(now.status)

            try:
                asking = ask_for_run(flow, workspace, more, pool=CLUSTER_POOL, show=show)
                return self._wait_for(asking)
            except KeyboardInterrupt:
                sys.stderr.write("stopped watching; the run goes on, see it in Prefect's UI\n")
                raise

    def leaks(self) -> Sequence[Leak]:
        """List leaks of claims, and of the cloud's machines where settings say which cloud."""
        return self._wait_for(find_leaks(self._platform, self._settings))

    def collect_leaks(self) -> Sequence[Leak]:
        """Remove them from here, as the schedule on the cluster does."""
        return self._wait_for(collect_leaks(self._platform, self._settings))

    async def _api(self) -> KubeApi:
        return await self._platform.api()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def _each(self, lines: AsyncGenerator[T]) -> Iterator[T]:
        """The same lines, for who does not run an event loop."""

        async def next_line() -> T:
            return await anext(lines)

        try:
            while True:
                try:
                    yield self._wait_for(next_line())
                except StopAsyncIteration:
                    return
        finally:
            self._wait_for(_close(lines))


async def _close(lines: AsyncGenerator[T]) -> None:
    await lines.aclose()


def _typed(found: Object) -> Workspace:
    meta = found["metadata"]
    head = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace"}
    return parse_workspace(head | found, source=f"{meta['namespace']}/{meta['name']}")


@contextlib.contextmanager
def _expecting_workspaces(asked: str) -> Iterator[None]:
    try:
        yield
    except KubernetesRefused as error:
        if error.status != _NOT_FOUND:
            raise
        raise apply.not_installed(f"the cluster was asked to {asked}") from None


def _expect_no_port(port: int | None) -> None:
    if port is not None:
        raise WrongUsage(
            f"--port {port} was given",
            "on a cluster the Workspace's Service answers on port 80",
            "leave --port away",
        )
