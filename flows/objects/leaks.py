"""The machines that a cluster leaks, as far as they can be seen from where the command runs."""

import sys
from collections.abc import Awaitable, Callable, Sequence

from tasks.nodes import garbage_collector
from tasks.nodes.collector import GarbageCollector
from tasks.nodes.garbage import Leak
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import Settings

_CLAIMS_ONLY = (
    "KAITOFLOW_PROVISIONER is not set here, so only NodeClaims were looked at; agent pools too: "
    "kubectl exec --namespace kaitoflow statefulset/kaitoflow-worker -- kaitoflow leaks\n"
)

Act = Callable[[GarbageCollector], Awaitable[Sequence[Leak]]]


async def with_collector(
    platform: KubernetesPlatform,
    settings: Settings,
    act: Act,
) -> Sequence[Leak]:
    """What the collector finds or removes; nothing where no node is made."""
    if settings.provisioner is None:
        sys.stderr.write(_CLAIMS_ONLY)
    async with garbage_collector(platform, settings) as collector:
        return await act(collector) if collector else ()
