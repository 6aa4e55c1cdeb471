"""kopf watches, one replica leads, and /healthz tells whether the watch lives."""

import asyncio
import logging
import os
import socket
from typing import Any
from uuid import uuid4

import kopf
from aiohttp import web
from kubernetes.aio.leaderelection import electionconfig, leaderelection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock
from prefect import get_client

from flows.watcher.runs import Watcher
from flows.watcher.settings import WatcherSettings
from tasks.platform.base import INFERENCE
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests import MANAGED_BY, POD_LABEL
from tasks.settings import settings

logger = logging.getLogger(__name__)

_LEASE = "kaitoflow-watcher"


async def watch(watcher_settings: WatcherSettings) -> None:
    """Lead as soon as no other replica does, and watch until cancelled, or until leading is lost.

    Raises: RuntimeError: another replica leads now; start again to wait for it to end.
    """
    platform = KubernetesPlatform(settings())
    api = await platform.api()
    async with get_client() as prefect, asyncio.TaskGroup() as group:
        watcher = Watcher(platform, api, prefect, watcher_settings)
        leading = asyncio.Event()
        group.create_task(_serve_health(watcher, leading, watcher_settings.watcher_port))
        group.create_task(_lead(api.client, watcher_settings, leading))
        await leading.wait()
        logger.info("leading")
        group.create_task(watcher.resync())
        group.create_task(_run_operator(watcher))


async def _lead(api_client: Any, watcher_settings: WatcherSettings, leading: asyncio.Event) -> None:
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    lock = LeaseLock(_LEASE, watcher_settings.lease_namespace, identity, api_client)
    lease_s = watcher_settings.lease_s

    async def started() -> None:
        leading.set()

    async def stopped() -> None:
        raise RuntimeError("the Lease was lost; another replica leads; start again to follow it")

    election = electionconfig.Config(
        lock,
        lease_duration=lease_s,
        renew_deadline=lease_s * 2 / 3,
        retry_period=lease_s / 8,
        onstarted_leading=started,
        onstopped_leading=stopped,
    )
    await leaderelection.LeaderElection(election).run()


async def _run_operator(watcher: Watcher) -> None:
    registry = kopf.OperatorRegistry()

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
