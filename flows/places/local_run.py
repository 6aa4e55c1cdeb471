"""A run on this machine: a flow in this process, watched until it has ended."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from flows.own_runs import cancel_own_runs, end_runs_of_killed, own_tag
from flows.prefect_api import PrefectApi
from flows.prefect_server import PrefectServer, prefect_server, restart_if_ended
from flows.view import RunView, run_view
from tasks.contract.errors import PrefectUnavailable, Refused
from tasks.contract.podlog import read_answer
from tasks.contract.programs.serving import MergeResult
from tasks.contract.sweep import Settings, Tried
from tasks.contract.workspace import Adapter, Manifests, Workspace
from tasks.platform.current import local_platform

_REFRESH_S = 0.2

# Makes the flow's run, once Prefect may be imported.
Begin = Callable[[], Coroutine[Any, Any, Any]]


def run_here(manifests: Manifests, *, push: bool, port: int | None) -> None:
    """Run a Workspace's flow to the end, showing its progress.

    Raises: the typed error of the step that failed; KeyboardInterrupt.
    """
    store = local_platform().store
    workspace = store.apply(manifests)

    async def begin() -> Any:
        from flows.run_workspace import run_workspace

        return await run_workspace(workspace.redacted(), push=push, port=port)

    try:
        with run_view(workspace) as view:
            run_watched(workspace, begin, view)
        view.print_outcome(store.read_status(workspace))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is left running, run it again to resume\n")
        raise
    except Refused:
        store.forget_refused(workspace)
        raise


def sweep_here(
    manifests: Manifests, candidates: Sequence[Settings], *, push: bool, port: int | None
) -> Sequence[Tried]:
    """Tune with each of several settings and run the Workspace with the best; what each came to.

    Raises: the typed error of the step that failed; KeyboardInterrupt.
    """
    store = local_platform().store
    workspace, meta = store.apply(manifests), manifests.workspace.metadata
    tried: list[Tried] = []

    async def begin() -> None:
        from flows.sweep_workspace import sweep_workspace

        tried.extend(
            await sweep_workspace(
                meta.name, candidates, namespace=meta.namespace, push=push, port=port
            )
        )

    with run_view(workspace) as view:
        view.follows_generations()
        run_watched(workspace, begin, view)
    view.print_outcome(store.read_status(workspace))
    return tried


def retune_here(workspace: Workspace, *, push: bool) -> str:
    """Retune a Workspace, showing the progress; what it came to, in one line.

    Raises: the typed error of the step that failed; KeyboardInterrupt.
    """
    meta = workspace.metadata

    async def begin() -> Any:
        from flows.retune_workspace import retune_workspace

        return await retune_workspace(meta.name, namespace=meta.namespace, push=push)

    store = local_platform().store
    with run_view(workspace) as view:
        view.goes_on_from(store.read_status(workspace))
        run_watched(workspace, begin, view)
    return store.read_status(workspace).adapters.told


def promote_here(
    workspace: Workspace, number: int | None, *, refuse: bool, by: str, note: str
) -> None:
    """Have one of a Workspace's adapters serve, or kept out, showing the progress.

    Raises: AdapterNotFound; the typed error of the step that failed; KeyboardInterrupt.
    """
    meta = workspace.metadata

    async def begin() -> Any:
        from flows.promote_adapter import promote_adapter

        return await promote_adapter(
            meta.name, namespace=meta.namespace, number=number, refuse=refuse, by=by, note=note
        )

    with run_view(workspace) as view:
        view.goes_on_from(local_platform().store.read_status(workspace))
        run_watched(workspace, begin, view)


def merge_here(workspace: Workspace, adapter: Adapter | None, folder: Path) -> MergeResult:
    """The base model with an adapter in its weights, written to the folder by programs of its own.

    Raises: what a program ends with; KeyboardInterrupt.
    """

    async def merge() -> MergeResult:
        from tasks.pods import merging_pod

        platform = local_platform()
        pod = await merging_pod(workspace, adapter, folder)
        for container in pod.containers:
            async with contextlib.aclosing(platform.follow(workspace, pod, container)) as lines:
                answers = [said async for said in lines if isinstance(said, dict)]
        return read_answer(MergeResult, answers[-1])

    return asyncio.run(merge())


def run_watched(workspace: Workspace, begin: Begin, view: RunView) -> None:
    """Run a flow of a Workspace to its end in this process, showing what the status tells.

    Raises: what the flow ended with; KeyboardInterrupt.
    """
    # This process runs the flow, the server only keeps it; what is shown is the view's.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with prefect_server(view.waiting_for_prefect) as server, own_tag(server) as tag:
        view.started(server.ui_url, server.password_file)
        flow = FlowThread(workspace, begin, tag=tag, server=server)
        error = _watched(flow, workspace, view, server)
    if isinstance(error, asyncio.CancelledError):
        raise KeyboardInterrupt
    if error:
        raise error


class FlowThread(threading.Thread):
    """The flow in a thread of its own, so that it can be watched and stopped from this one.

    Not for speed: in a main thread Prefect answers SIGTERM by raising wherever the loop happens to
    be, and the pod programs would not be stopped in order.
    """

    def __init__(
        self, workspace: Workspace, begin: Begin, *, tag: str, server: PrefectServer
    ) -> None:
        """Take what begins the flow, the tag of all its runs, and the server that keeps them."""
        super().__init__(name=f"run {workspace}")
        self.error: BaseException | None = None
        self._begin, self._tag, self._server = begin, tag, server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stop_asked = False

    def run(self) -> None:
        """Run the flow to its end; `error` is how it ended, if not well."""
        try:
            asyncio.run(self._run_flow())
        except BaseException as error:  # noqa: BLE001  carried to the thread that watches
            self.error = error

    def stop(self, *_: Any) -> None:
        """Cancel the flow; it stops its pod programs before it ends. Safe as a signal handler."""
        self._stop_asked = True
        if self._loop and self._task:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run_flow(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._begin_tagged())
        if self._stop_asked:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            with contextlib.suppress(PrefectUnavailable):  # who presses Ctrl-C waits for nobody
                async with PrefectApi(waits_s=(1.0, 2.0, 4.0)) as api:
                    await cancel_own_runs(api, self._tag)
            raise
        finally:
            await _send_what_is_pending()

    async def _begin_tagged(self) -> Any:
        with contextlib.suppress(PrefectUnavailable):  # another command or the server tells it
            async with PrefectApi(waits_s=()) as api:
                await end_runs_of_killed(api, self._server)
        from prefect import tags

        with tags(self._tag):
            return await self._begin()


def _watched(
    flow: FlowThread, workspace: Workspace, view: RunView, server: PrefectServer
) -> BaseException | None:
    """Run the flow, showing its status until it has ended; how it ended, if not well."""
    previous = {n: signal.signal(n, flow.stop) for n in (signal.SIGINT, signal.SIGTERM)}
    store = local_platform().store
    try:
        flow.start()
        while flow.is_alive():
            flow.join(_REFRESH_S)
            restart_if_ended(server)
            view.show(store.read_status(workspace))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return flow.error


async def _send_what_is_pending() -> None:
    """Hand Prefect the last logs and task states: its server may be stopped right after."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    await APILogHandler.aflush()
    drained: Any = EventsWorker.drain_all()
    await drained
