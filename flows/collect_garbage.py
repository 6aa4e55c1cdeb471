"""The flow gives back, on a schedule, machines that nobody needs, whatever went wrong before."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect import flow

from flows.prefect_api import PrefectApi
from tasks.contract.happenings import leak_body
from tasks.events import tell
from tasks.nodes.current import current_collector, show_quotas

if TYPE_CHECKING:
    # It knows the API server's client, whose import takes a second.
    from tasks.nodes.garbage.leaks import Leak

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """What a collection has found leaked and could not remove; at_s: since 1970."""

    at_s: float
    kept: "Sequence[Leak]"


_done: list[Collection] = []


def last_collection() -> Collection | None:
    """The last one that this process has ended; None when it has made none."""
    return _done[-1] if _done else None


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
        await show_quotas()
        removed = await collector.collect()
        kept = await collector.leaks()
    known = {leak.name for done in _done for leak in done.kept}
    _done[:] = [Collection(time.time(), kept)]
    for leak in kept:
        if leak.name not in known:
            tell(leak_body(leak.name, reason=leak.kind, message=leak.kept_because))
        logger.warning("leak kept %s=%s: %s", leak.kind, leak.name, leak.kept_because)
    logger.info("collected %d, kept %d", len(removed), len(kept))
