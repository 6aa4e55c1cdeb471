"""Prefect's runs of Workspaces, as the watcher has them begin, looks for them and ends them.

The idempotency key (uid, generation, attempt) makes a run that is asked for twice one run.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from flows.pools import CLUSTER_POOL
from flows.prefect_api import RUN_TAG, PrefectApi, Run, uid_tag
from flows.watcher.metrics import WatcherMetrics
from flows.worker.endpoint import poke_worker
from tasks.contract.errors import KaitoflowError
from tasks.contract.workspace import ObjectMeta

logger = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.5
# Runs that are created at once: the server is no faster with more, and all would wait for the last.
_CREATIONS_AT_ONCE = 4
# What a run is told that is ended here; of others a person thought better.
_ENDED_HERE = "its Workspace was stopped, changed or deleted"


class WorkspaceRuns:
    """What the watcher asks of Prefect's server."""

    def __init__(self, prefect: PrefectApi, *, metrics: WatcherMetrics, worker_url: str) -> None:
        """Ask by `prefect`, an open client of the server that has the deployments.

        Args:
            worker_url: of the worker that is told of each new run; empty = it finds them itself.
        """
        self._prefect, self._metrics, self._worker_url = prefect, metrics, worker_url
        self._deployments: dict[str, UUID] = {}
        self._creations = asyncio.Semaphore(_CREATIONS_AT_ONCE)
        self._telling: set[asyncio.Task[None]] = set()

    async def ensure(
        self,
        flow: str,
        meta: ObjectMeta,
        attempt: int,
        parameters: dict[str, Any],
        *,
        tags: Sequence[str] = (),
    ) -> Run:
        """The run of this flow, generation and attempt: a new one, or the one that there is.

        The server is not to compare the parameters with the flow's schema: a Workspace has passed
        all its rules here, and Prefect's server, where most of a run's cost is, spent a quarter of
        its time on it.
        """
        body = {
            # As the flow would name it, which then need not ask for another name.
            "name": f"{flow.partition('-')[0]} {meta}",
            "parameters": parameters,
            "enforce_parameter_schema": False,
            "idempotency_key": f"{flow} {meta.uid} {meta.generation} {attempt}",
            "tags": [
                *dict.fromkeys(
                    (flow, uid_tag(meta.uid), f"generation:{meta.generation}", *tags),
                )
            ],
        }
        with self._metrics.creating.track_inprogress():
            async with self._creations:
                run = await self._prefect.create_run(await self._deployment(flow), body)
        if self._worker_url:
            await poke_worker(self._worker_url)
        return run

    async def _deployment(self, flow: str) -> UUID:
        if flow not in self._deployments:
            self._deployments[flow] = await self._prefect.deployment_id(flow, CLUSTER_POOL)
        return self._deployments[flow]

    async def at_work(self, uid: str) -> list[Run]:
        """The runs of a Workspace that have not ended, but those on its way back."""
        runs = await self._prefect.runs_with([RUN_TAG, uid_tag(uid)])
        return [run for run in runs if not run.has_ended]

    async def crashed(self) -> set[str]:
        """Uids of Workspaces with a run that has crashed."""
        runs = await self._prefect.crashed_runs()
        return {uid for run in runs for uid in run.workspace_uids}

    async def cancel(self, meta: ObjectMeta, *, but_generation: int | None = None) -> None:
        """Ask a Workspace's runs to end, and wait until they have, for a minute at most."""
        kept = f"generation:{but_generation}"
        deadline = asyncio.get_running_loop().time() + _CANCEL_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            alive = [run for run in await self.at_work(meta.uid) if kept not in run.tags]
            if not alive:
                return
            for run in alive:
                await self._cancel(run)
            await asyncio.sleep(_LOOK_AGAIN_S)
        logger.warning("runs still there uid=%s after_s=%.0f", meta.uid, _CANCEL_TIMEOUT_S)

    async def _cancel(self, run: Run) -> None:
        if run.state_type == "SCHEDULED":
            await self._prefect.set_state(run, "CANCELLED", message=_ENDED_HERE)
        elif run.state_type != "CANCELLING":
            await self._prefect.set_state(run, "CANCELLING", message=_ENDED_HERE)

    async def was_cancelled_by_a_person(self, run: Run) -> bool:
        """Whether somebody ended the run in Prefect, which then is not begun again.

        The last state is its worker's word, the one before says who asked for it: a stop that was
        taken back while no watcher was there has ended its run all the same.
        """
        if run.state_type != "CANCELLED":
            return False
        return _ENDED_HERE not in await self._prefect.said_by(run)

    def tell_soon(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Have Prefect's feed tell of it, which nothing waits for, and which may be away."""

        async def tell() -> None:
            try:
                await self._prefect.tell(events)
            except KaitoflowError as error:
                logger.warning("events not told: %s", error)

        telling = asyncio.create_task(tell())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
