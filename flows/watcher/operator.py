"""Here kopf watches, one replica leads, and /healthz tells whether the watch lives."""

import asyncio
import logging
import os
import socket
from typing import Any
from uuid import uuid4

import kopf
from aiohttp import web

from flows.prefect_api import PrefectApi
from flows.watcher.lease import Lease
from flows.watcher.runs import Watcher
from flows.watcher.settings import WatcherSettings
from tasks.contract.steps import INFERENCE
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests import MANAGED_BY, POD_LABEL
from tasks.settings import settings

logger = logging.getLogger(__name__)


async def watch(watcher_settings: WatcherSettings) -> None:
    """Lead as soon as no other replica does, and watch until cancelled, or until leading is lost.

    Raises: ExceptionGroup: with LeadershipLost, or whatever else ended one of the tasks.
    """
    platform = KubernetesPlatform(settings())
    api = await platform.api()
    lease = Lease(
        api,
        namespace=watcher_settings.lease_namespace,
        identity=f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}",
        lease_s=watcher_settings.lease_s,
    )
    leading = asyncio.Event()
    try:
        async with PrefectApi() as prefect, asyncio.TaskGroup() as group:
            watcher = Watcher(platform, api, prefect, watcher_settings)
            port = watcher_settings.watcher_port
            beside = [group.create_task(_serve_health(watcher, leading, port))]
            await lease.acquire()
            leading.set()
            logger.info("leading")
            beside += [group.create_task(lease.keep()), group.create_task(watcher.resync())]
            await _run_operator(watcher)  # it ends by itself when the process is asked to
            for task in beside:
                task.cancel()
    finally:
        await lease.give_up()
        await platform.close()


async def _run_operator(watcher: Watcher) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**found: Any) -> kopf.ConnectionInfo | None:
        """Log in as `connect` does: a kubeconfig named wins over the pod's service account."""
        if "KUBECONFIG" in os.environ:
            return kopf.login_with_kubeconfig(**found)
        return kopf.login_with_service_account(**found) or kopf.login_with_kubeconfig(**found)

    @kopf.on.event("kaito.sh", "v1beta1", "workspaces", registry=registry)
    async def look(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002  kopf's name
        if type == "DELETED":
            watcher.forget(body)
        else:
            await watcher.look(body)

    @kopf.on.event("", "v1", "pods", labels=MANAGED_BY | {POD_LABEL: INFERENCE}, registry=registry)
    async def look_at_server(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002
        await watcher.look_at_server(body, is_gone=type == "DELETED")

    operator_settings = kopf.OperatorSettings()
    operator_settings.posting.enabled = False
    operator_settings.watching.server_timeout = 280
    operator_settings.watching.client_timeout = 300
    operator_settings.watching.connect_timeout = 10
    operator_settings.networking.request_timeout = 30
    await kopf.operator(
        registry=registry, settings=operator_settings, clusterwide=True, standalone=True
    )


async def _serve_health(watcher: Watcher, leading: asyncio.Event, port: int) -> None:
    async def health(_request: web.Request) -> web.Response:
        is_well = not leading.is_set() or watcher.is_well
        said = {"leading": leading.is_set(), "watching": is_well}
        return web.json_response(said, status=200 if is_well else 503)

    app = web.Application()
    app.router.add_get("/healthz", health)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104  the kubelet probes it
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
