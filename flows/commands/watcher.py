"""`kaitoflow watcher`: start a run for every Workspace of the cluster, until asked to stop."""

import asyncio
import contextlib
import logging
import os
import signal

from flows.heap import settle_heap
from flows.prefect_server import prefect_server
from tasks.settings import read_settings


def watch_workspaces() -> int:
    """Watch until interrupted."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    logging.basicConfig(
        level=os.environ.get("KAITOFLOW_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for chatty in ("httpx", "kopf.objects"):  # a line a request, a line an event
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # On a cluster both start at once, and the watcher's own client asks again for minutes.
    with prefect_server(patience_s=None):
        asyncio.run(_watch())
    return 0


async def _watch() -> None:
    from flows.watcher.operator import watch
    from flows.watcher.settings import WatcherSettings

    settle_heap()
    work = asyncio.ensure_future(watch(read_settings(WatcherSettings)))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
