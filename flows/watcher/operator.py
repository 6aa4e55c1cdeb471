"""Here kopf watches, one replica leads, and /healthz and /metrics tell how the watch is."""

import asyncio
import logging
import os
import socket
from typing import Any
from uuid import uuid4

import kopf
from aiohttp import web

from flows.pools import CLUSTER_POOL
from flows.prefect_api import PrefectApi
from flows.questions import keep_questions
from flows.schedules import keep_schedules
from flows.watcher.inference_sets import InferenceSets
from flows.watcher.lease import Lease
from flows.watcher.metrics import WatcherMetrics
from flows.watcher.settings import WatcherSettings
from flows.watcher.watcher import Watcher
from tasks.contract.errors import KaitoflowError, LeadershipLost
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import settings

logger = logging.getLogger(__name__)


async def watch(watcher_settings: WatcherSettings) -> None:
    """Lead as soon as no other replica does, and watch until cancelled, or until leading is lost.

    Raises: LeadershipLost. ExceptionGroup: with whatever else ended one of the tasks.
    """
    try:
        await _lead(watcher_settings)
    except BaseExceptionGroup as group:
        if lost := _first(group, LeadershipLost):
            raise lost from None
        raise


async def _lead(watcher_settings: WatcherSettings) -> None:
    platform, metrics = KubernetesPlatform(settings()), WatcherMetrics()
    platform.on_answer = metrics.kubernetes_answered
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
            has_claims = (settings().provisioner or "byo") != "byo"
            prefect.on_answer = metrics.prefect_answered
            watcher = Watcher(
                platform, api, prefect, watcher_settings, has_claims=has_claims, metrics=metrics
            )
            metrics.watch(
                lambda: watcher.manifests,
                age_s=lambda: watcher.watch_age_s if leading.is_set() else 0,
                looks=lambda: watcher.looks,
            )
            port = watcher_settings.watcher_port
            beside = [group.create_task(_serve(watcher, metrics, leading, port))]
            await lease.acquire()
            leading.set()
            metrics.leading.set(1)
            logger.info("leading")
            schedules = keep_schedules(prefect, CLUSTER_POOL, watcher.retunable)
            questions = keep_questions(prefect, CLUSTER_POOL, watcher.histories)
            sets = InferenceSets(api, namespaces=settings().namespaces).keep()
            works = (
                lease.keep(),
                watcher.resync(),
                watcher.keep_true(),
                schedules,
                questions,
                sets,
            )
            beside += [group.create_task(each) for each in works]
            await _run_operator(watcher)  # it ends by itself when the process is asked to
            for task in beside:
                task.cancel()
    finally:
        await lease.give_up()
        await platform.close()


def _first(group: BaseExceptionGroup, kind: type[KaitoflowError]) -> KaitoflowError | None:
    """The first error of a kind in a group, however deep."""
    for each in group.exceptions:
        found = _first(each, kind) if isinstance(each, BaseExceptionGroup) else each
        if isinstance(found, kind):
            return found
    return None


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

    operator_settings = kopf.OperatorSettings()
    operator_settings.posting.enabled = False
    operator_settings.watching.server_timeout = 280
    operator_settings.watching.client_timeout = 300
    operator_settings.watching.connect_timeout = 10
    operator_settings.networking.request_timeout = 30
    await kopf.operator(
        registry=registry, settings=operator_settings, clusterwide=True, standalone=True
    )


async def _serve(
    watcher: Watcher, metrics: WatcherMetrics, leading: asyncio.Event, port: int
) -> None:
    async def health(_request: web.Request) -> web.Response:
        is_well = not leading.is_set() or watcher.is_well
        said = {"leading": leading.is_set(), "watching": is_well}
        return web.json_response(said, status=200 if is_well else 503)

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.get("/metrics", metrics.answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104  the kubelet probes it
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
