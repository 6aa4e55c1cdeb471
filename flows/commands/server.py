"""`kaitoflow server`: Prefect's server, a worker and the deployments, on one machine."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from flows.own_runs import keep_ending_runs_of_killed
from flows.pools import LOCAL_POOL
from flows.prefect_api import PrefectApi
from flows.prefect_server import PrefectServer, prefect_server
from flows.questions import History, keep_questions
from flows.schedules import keep_schedules
from tasks.contract.workspace import Workspace
from tasks.platform.current import local_platform
from tasks.platform.store import StoredWorkspace


def serve_prefect() -> int:
    """Serve until interrupted; runs can be started from the form in Prefect's UI."""
    with prefect_server(_say_waiting) as server:
        sys.stdout.write(f"Prefect UI      {server.ui_url}\n")
        if server.password_file:
            sys.stdout.write(f"Password        {_password_shown(server.password_file)}\n")
        sys.stdout.flush()
        # The worker starts a process per run: its own interpreter, and this server.
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
        asyncio.run(_work(server))
    return 0


def _password_shown(file: Path) -> str:
    """The password, to be pasted into the UI; where no terminal shows it, only where it is."""
    return file.read_text().strip() if sys.stdout.isatty() else f"in {file}"


def _say_waiting(waited_s: float) -> None:
    if waited_s == 0 or not sys.stdout.isatty():
        return
    sys.stderr.write(f"\rstarting a Prefect server ... {waited_s:.0f} s ")


async def _work(server: PrefectServer) -> None:
    work = asyncio.ensure_future(_deploy_and_work(server))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _deploy_and_work(server: PrefectServer) -> None:
    from flows.worker.deployments import deploy, make_worker

    deployment_id = await deploy()
    sys.stdout.write(
        f"Start a run     {server.ui_url}/v2/deployments/deployment/{deployment_id}/run\n"
    )
    sys.stdout.write("Stop            Ctrl-C\n")
    sys.stdout.flush()
    async with PrefectApi() as api:
        beside = [
            asyncio.create_task(keep_schedules(api, LOCAL_POOL, _workspaces)),
            asyncio.create_task(keep_questions(api, LOCAL_POOL, _histories)),
            asyncio.create_task(keep_ending_runs_of_killed(api, server)),
        ]
        try:
            await make_worker().start()
        finally:
            for each in beside:
                each.cancel()


def _workspaces() -> list[Workspace]:
    """Those of this machine that can be read; the others are told by `kaitoflow get`."""
    return [stored.workspace for stored in _readable()]


def _histories() -> list[History]:
    return [(stored.workspace.metadata, stored.status.adapters) for stored in _readable()]


def _readable() -> list[StoredWorkspace]:
    return [stored for stored in local_platform().store.list() if not stored.damage]
