"""`kaitoflow plan` and `kaitoflow run`: from a file to a plan, and to a run that is watched."""

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import yaml

from flows.prefect_server import PrefectServer, prefect_server, restart_if_ended
from flows.view import RunView, print_plan, run_view
from tasks.artifacts import Plan
from tasks.errors import InvalidWorkspace, Refused
from tasks.plan.checks import make_plan, with_absolute_files
from tasks.platform import local_platform
from tasks.platform.base import World
from tasks.workspace import Manifests, Workspace, parse_manifests

_REFRESH_S = 0.2
_REFUSED = 3


def plan_file(file: Path, *, push: bool, port: int | None, output: str) -> int:
    """Print the plan of a file's Workspace; 0 when it may run, 3 when it is refused."""
    plan = _plan(load_manifests(file), push=push, port=port)
    if output in ("table", "wide"):
        print_plan(plan)
    else:
        shown = plan.model_dump(mode="json", by_alias=True) | {"accepted": not plan.refused}
        sys.stdout.write(
            json.dumps(shown, indent=2) + "\n"
            if output == "json"
            else yaml.safe_dump(shown, sort_keys=False)
        )
    return _REFUSED if plan.refused else 0


def run_file(file: Path, *, push: bool, port: int | None) -> int:
    """Run a file's Workspace to the end, showing its progress; the exit code."""
    manifests = load_manifests(file)
    platform = local_platform()
    platform.expect_no_run(manifests.workspace)
    plan = _plan(manifests, push=push, port=port)
    print_plan(plan)
    if plan.refused:
        return _REFUSED
    workspace = platform.store.apply(manifests)
    try:
        _run_to_the_end(workspace, push=push, port=port)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is left running, run it again to resume\n")
        raise
    except Refused:
        platform.store.forget_refused(workspace)
        raise
    return 0


def _run_to_the_end(workspace: Workspace, *, push: bool, port: int | None) -> None:
    # This process runs the flow, the server only keeps it; what is shown is the view's.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with run_view(workspace) as view, prefect_server(view.waiting_for_prefect) as server:
        view.started(server.ui_url)
        error = _run_watched(workspace, view, server, push=push, port=port)
    if isinstance(error, asyncio.CancelledError):
        raise KeyboardInterrupt
    if error:
        raise error
    view.print_outcome(local_platform().store.read_status(workspace))


def load_manifests(file: Path) -> Manifests:
    """The objects of a file, with `file:` URLs counted from its folder.

    Raises: InvalidWorkspace: no such file, not readable, or not a Workspace.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidWorkspace(
            f"{file} was asked for; it cannot be read ({error}); give a YAML file with a Workspace"
        ) from None
    manifests = parse_manifests(text, source=str(file))
    workspace = with_absolute_files(manifests.workspace, file.resolve().parent)
    return manifests.model_copy(update={"workspace": workspace})


def _plan(manifests: Manifests, *, push: bool, port: int | None) -> Plan:
    world = asyncio.run(local_platform().look_around(manifests.workspace, push=push, port=port))
    return make_plan(manifests.workspace, _with_file_objects(world, manifests))


def _with_file_objects(world: World, manifests: Manifests) -> World:
    """The world as it will be once the file's ConfigMaps and Secrets are applied."""
    return dataclasses.replace(
        world,
        config_maps={**world.config_maps, **manifests.config_maps},
        has_secret=lambda name: name in manifests.secrets or world.has_secret(name),
    )


class FlowThread(threading.Thread):
    """The flow in a thread of its own, so that it can be watched and stopped from this one.

    Not for speed: in a main thread Prefect answers SIGTERM by raising wherever the loop happens to
    be, and the pod programs would not be stopped in order.
    """

    def __init__(self, workspace: Workspace, *, push: bool, port: int | None) -> None:
        """Args: as the flow's parameters."""
        super().__init__(name=f"run {workspace}")
        self.error: BaseException | None = None
        self._workspace, self._push, self._port = workspace, push, port
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
        from flows.run_workspace import run_workspace

        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(
            run_workspace(self._workspace, push=self._push, port=self._port)
        )
        if self._stop_asked:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            await _mark_cancelled(self._workspace)
            raise
        finally:
            await _send_what_is_pending()


def _run_watched(
    workspace: Workspace, view: RunView, server: PrefectServer, *, push: bool, port: int | None
) -> BaseException | None:
    """Run the flow, showing its status until it has ended; how it ended, if not well."""
    flow = FlowThread(workspace, push=push, port=port)
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


async def _mark_cancelled(workspace: Workspace) -> None:
    """Tell Prefect that a person ended the run; it takes the cancellation for a crash."""
    from prefect import get_client
    from prefect.states import Cancelled

    status = local_platform().store.read_status(workspace)
    if not status.flow_run_id:
        return
    async with get_client() as client:
        state: Any = Cancelled(message="stopped by the user")
        await client.set_flow_run_state(status.flow_run_id, state, force=True)


async def _send_what_is_pending() -> None:
    """Hand Prefect the last logs and task states: its server may be stopped right after."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    await APILogHandler.aflush()
    drained: Any = EventsWorker.drain_all()
    await drained
