"""The flow gives back, on a schedule, machines that nobody needs, whatever went wrong before."""

import logging

from prefect import flow

from flows.prefect_api import PrefectApi
from tasks.nodes.current import current_collector

logger = logging.getLogger(__name__)


@flow(name="collect-garbage", flow_run_name="collect garbage")
async def collect_garbage() -> None:
    """Remove claims and agent pools of ours that nobody needs; say which are kept, and why.

    A run that cannot list everything removes nothing and fails; the next one tries again.
    """
    async with (
        PrefectApi() as prefect,
        current_collector(prefect.workspaces_with_run) as collector,
    ):
        if collector is None:
            return
        removed = await collector.collect()
        kept = await collector.leaks()
    for leak in kept:
        logger.warning("leak kept %s=%s: %s", leak.kind, leak.name, leak.kept_because)
    logger.info("collected %d, kept %d", len(removed), len(kept))
