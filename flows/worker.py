"""The worker of one machine: runs started from Prefect's UI, a process each, one at a time."""

import contextlib
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined]
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.run_workspace import run_workspace

POOL = "local"
# Training uses every core; a second run would only slow both.
_RUNS_AT_ONCE = 1


async def deploy() -> UUID:
    """The deployment of `run_workspace`, made or brought up to date, with its work pool."""
    async with get_client() as client:
        pool = WorkPoolCreate(name=POOL, type="process", concurrency_limit=_RUNS_AT_ONCE)
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(pool)
    deployment = await run_workspace.ato_deployment(
        name=POOL,
        work_pool_name=POOL,
        description="Tune, publish and serve one Workspace on this machine.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return await deployment.aapply()


def make_worker() -> ProcessWorker:
    """A worker that executes the runs of the local pool."""
    return ProcessWorker(work_pool_name=POOL, name="kaitoflow")
