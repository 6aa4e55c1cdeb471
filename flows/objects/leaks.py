"""The machines that a cluster leaks, as far as they can be seen from where the command runs."""

import sys
from collections.abc import Sequence

from tasks.nodes import garbage_collector
from tasks.nodes.garbage import Leak
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import Settings

_CLAIMS_ONLY = (
    "KAITOFLOW_PROVISIONER is not set here, so only NodeClaims were looked at; agent pools too: "
    "kubectl exec --namespace kaitoflow statefulset/kaitoflow-worker -- kaitoflow leaks\n"
)


async def find_leaks(platform: KubernetesPlatform, settings: Settings) -> Sequence[Leak]:
    """What is leaked, after a word on what could not be seen; nothing where no node is made."""
    if settings.provisioner is None:
        sys.stderr.write(_CLAIMS_ONLY)
    async with garbage_collector(platform, settings) as collector:
        return await collector.leaks() if collector else ()


async def collect_leaks(platform: KubernetesPlatform, settings: Settings) -> Sequence[Leak]:
    """What was removed."""
    async with garbage_collector(platform, settings) as collector:
        return await collector.collect() if collector else ()
