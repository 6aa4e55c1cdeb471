"""Two workers: one process per run on one machine, and many runs in one process on a cluster.

`local` is Prefect's own process worker: training there uses every core, so one run at a time.
`kaitoflow` is ours (`in_process.py`): runs on a cluster only wait and call APIs, hundreds of them
in one event loop. Whatever is private to Prefect is in `engine.py` and nowhere else.
"""

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.pools import LOCAL_POOL

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.utilities.callables import ParameterSchema
    from prefect.workers.process import ProcessWorker

logger = logging.getLogger(__name__)

# Of the one that a person looks for; the others are named after their pool.
FORM = "tune-and-serve"
# Training uses every core; a second run would only slow both.
_LOCAL_RUNS_AT_ONCE = 1
_COLLECT_EVERY_S = 600.0


async def deploy(pool: str = LOCAL_POOL) -> UUID:
    """The deployment with the form, on a pool; all deployments and the pool are up to date.

    Done again, by any number of workers, it changes nothing.
    """
    from flows.approve_adapter import approve_adapter
    from flows.collect_garbage import collect_garbage
    from flows.promote_adapter import promote_adapter
    from flows.release_workspace import release_workspace
    from flows.restore_workspace import restore_workspace
    from flows.retune_workspace import retune_workspace
    from flows.run_workspace import run_workspace
    from flows.stop_workspace import stop_workspace
    from flows.tune_and_serve import tune_and_serve
    from tasks.nodes.aks.writing import ensure_writer_limit
    from tasks.settings import settings

    await _ensure_pool(pool)
    if settings().provisioner == "aks":
        await ensure_writer_limit(settings().azure_cluster)
    if pool != LOCAL_POOL:
        await _deploy(release_workspace, pool, "Remove what a deleted Workspace leaves.")
        await _deploy(restore_workspace, pool, "Give what is served back what it has lost.")
        await _deploy(stop_workspace, pool, "Give back the nodes of a stopped Workspace.")
    await _deploy(retune_workspace, pool, "Tune an adapter from data that has changed.")
    await _deploy(promote_adapter, pool, "Have one of a Workspace's adapters serve.")
    await _deploy(approve_adapter, pool, "Ask a person whether an adapter is to serve.")
    if settings().makes_nodes:
        await _deploy(
            collect_garbage, pool, "Remove nodes that nobody needs.", every_s=_COLLECT_EVERY_S
        )
    await _ensure_automations(pool)
    await _deploy(run_workspace, pool, "Tune, publish and serve one Workspace.")
    return await _deploy(
        tune_and_serve, pool, "Tune a model on your data, and have it answer.", name=FORM
    )


async def _ensure_automations(pool: str) -> None:
    """Have somebody told of what happens; without its block a cluster's worker works all the same.

    Raises: InvalidSettings: on one machine, where a person sees it.
    """
    from flows.automations import ensure_automations
    from tasks.contract.errors import InvalidSettings
    from tasks.settings import settings

    if not settings().notify:
        return
    try:
        await ensure_automations(settings().notify)
    except InvalidSettings as error:
        if pool == LOCAL_POOL:
            raise
        logger.warning("automations not installed: %s", error)


def make_worker() -> "ProcessWorker":
    """A worker that executes the runs of the local pool."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker(work_pool_name=LOCAL_POOL, name="kaitoflow")


async def _ensure_pool(name: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    from flows.worker.in_process import ensure_pool

    async with get_client() as client:
        if name != LOCAL_POOL:
            await ensure_pool(client, name)
            return
        local = WorkPoolCreate(name=name, type="process", concurrency_limit=_LOCAL_RUNS_AT_ONCE)
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(local)


async def _deploy(
    flow: "Flow[..., Any]",
    pool: str,
    description: str,
    *,
    name: str = "",
    every_s: float | None = None,
) -> UUID:
    """Deploy a flow; with `every_s` on a schedule, a run due while one lasts cancelled."""
    from prefect import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined]
    from prefect.runner.storage import LocalStorage

    from tasks.settings import settings

    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    deployment = await flow.ato_deployment(
        name=name or pool,
        work_pool_name=pool,
        description=description,
        interval=every_s,
        concurrency_limit=one if every_s else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Without it a process for a run copies the working directory, with all that lies there.
    deployment.storage = LocalStorage(path=".")
    deployment_id = await deployment.aapply()
    if settings().namespaces:
        form = with_namespaces(flow.parameters, settings().namespaces)
        async with get_client() as client:
            change = {"parameter_openapi_schema": form.model_dump()}
            await client.update_deployment(deployment_id, DeploymentUpdate.model_validate(change))
    return deployment_id


def with_namespaces(form: "ParameterSchema", namespaces: Sequence[str]) -> "ParameterSchema":
    """The form of a flow that asks for a namespace, if it does, with these alone to choose from.

    Prefect's server refuses others before a run begins; the flows do so themselves, too.
    """
    narrowed = form.model_copy(deep=True)
    if "ObjectMeta" in narrowed.definitions:
        field = narrowed.definitions["ObjectMeta"]["properties"]["namespace"]
        field |= {"enum": [*namespaces], "default": namespaces[0]}
    return narrowed
