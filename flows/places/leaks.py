"""What a cluster leaks, as far as it can be seen from where the command runs."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence

from flows.prefect_api import PrefectApi
from tasks.nodes.current import garbage_collector
from tasks.nodes.garbage.collector import GarbageCollector
from tasks.nodes.garbage.leaks import Leak
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import Settings

_CLAIMS_ONLY = "KAITOFLOW_PROVISIONER is not set here, so agent pools were not looked at"
_NO_RUNS = "PREFECT_API_URL is not set here, so Workspaces without a run were not looked for"
_IN_CLUSTER = (
    "all is seen by: kubectl exec --namespace kaitoflow statefulset/kaitoflow-worker -- "
    "kaitoflow leaks"
)


async def find_leaks(platform: KubernetesPlatform, settings: Settings) -> Sequence[Leak]:
    """What is leaked, after a word on what could not be seen; nothing where no node is made."""
    unseen = [_CLAIMS_ONLY] if settings.provisioner is None else []
    unseen += [] if _knows_prefect() else [_NO_RUNS]
    if unseen:
        sys.stderr.write("; ".join([*unseen, _IN_CLUSTER]) + "\n")
    async with _collector(platform, settings) as collector:
        return await collector.leaks() if collector else ()


async def collect_leaks(platform: KubernetesPlatform, settings: Settings) -> Sequence[Leak]:
    """What was removed."""
    async with _collector(platform, settings) as collector:
        return await collector.collect() if collector else ()


@contextlib.asynccontextmanager
async def _collector(
    platform: KubernetesPlatform, settings: Settings
) -> AsyncIterator[GarbageCollector | None]:
    async with contextlib.AsyncExitStack() as stack:
        with_run = None
        if _knows_prefect():
            prefect = await stack.enter_async_context(PrefectApi(waits_s=()))
            with_run = prefect.workspaces_with_run
        yield await stack.enter_async_context(
            garbage_collector(platform, settings, with_run=with_run)
        )


def _knows_prefect() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))
