"""A run that a person asks a cluster's Prefect server for, watched until it has ended."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from flows.prefect_api import PrefectApi, Run
from tasks.contract.errors import Failed, PrefectUnavailable
from tasks.contract.workspace import Workspace

_LOOK_AGAIN_S = 1.0
_FIX = (
    "name it by PREFECT_API_URL, and its login by PREFECT_API_AUTH_STRING, or ask from inside: "
    "kubectl exec --namespace kaitoflow statefulset/kaitoflow-worker -- kaitoflow ..."
)


class RunFailed(Failed):
    """A run that was asked for did not end well."""


async def ask_for_run(
    flow: str,
    workspace: Workspace,
    more: Mapping[str, Any],
    *,
    pool: str,
    show: Callable[[], Awaitable[None]],
) -> str:
    """What a run of a flow came to, in its last state's words; empty where these say nothing.

    Args: more: parameters beside the Workspace's name. pool: by which its deployment is called.
    show: called again and again meanwhile.
    Raises: PrefectUnavailable, RunFailed.
    """
    meta = workspace.metadata
    asked = f"a run of {flow} for {workspace} was to be asked for"
    if not os.environ.get("PREFECT_API_URL"):
        raise PrefectUnavailable(asked, "it is not known which Prefect server to ask", _FIX)
    body = {
        "name": f"{flow.partition('-')[0]} {workspace}",
        "parameters": {"namespace": meta.namespace, "name": meta.name, **more},
        "idempotency_key": f"{flow} {meta.uid} {uuid4()}",
        "tags": [flow],
    }
    async with PrefectApi(waits_s=()) as prefect:
        deployment = await prefect.deployment_id(flow, pool)
        run: Run | None = await prefect.create_run(deployment, body)
        while run and not run.has_ended:
            await show()
            await asyncio.sleep(_LOOK_AGAIN_S)
            run = await prefect.run(run.id)
    said = run.said if run else "it was deleted"
    if run is None or run.state_type != "COMPLETED":
        state = run.state_name if run else "gone"
        raise RunFailed(asked, f"it is {state}: {said}", "see the run in Prefect's UI")
    return f"skipped: {said}" if run.state_name == "Skipped" else ""
