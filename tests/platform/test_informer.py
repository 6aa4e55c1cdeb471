"""What is remembered of the pods and Jobs of hundreds of runs: what somebody asks for."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi, Object

META: Object = {"uid": "1", "name": "tuned", "resourceVersion": "7", "creationTimestamp": ""}


class Cluster:
    """One object, of which nothing new is heard."""

    def __init__(self, seen: Object) -> None:
        self.seen = seen

    async def find_with_version(self, *_about: Any, **_options: Any) -> tuple[list[Object], str]:
        return [self.seen], "7"

    async def watch(self, *_about: Any, **_options: Any) -> AsyncGenerator[tuple[str, Object]]:
        await asyncio.Event().wait()
        yield "", {}


async def remembered(**told: Any) -> Object:
    seen = {"metadata": META | {"managedFields": [{"manager": "kaitoflow"}]}, **told}
    api = cast("KubeApi", Cluster(seen))
    informer = Informer(api, "Pod", labels={}, key=lambda _each: "all")
    await informer.start()
    await informer.stop()
    [kept] = informer.select("all")
    return kept


async def test_a_pods_needs_and_its_status_are_kept_and_how_it_is_called_is_not() -> None:
    container = {"name": "tune", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    called = container | {"args": ["config"], "env": [{"name": "HOME", "value": "/tmp"}]}
    status = {"phase": "Running"}
    spec = {"nodeName": "gpu", "initContainers": [called], "containers": [called]}
    assert await remembered(spec=spec, status=status) == {
        "metadata": META,
        "spec": {"nodeName": "gpu", "initContainers": [container], "containers": [container]},
        "status": status,
    }


async def test_of_a_job_the_template_of_its_pods_is_not_kept() -> None:
    kept = await remembered(spec={"backoffLimit": 3, "template": {"spec": {}}}, status={})
    assert kept["spec"] == {"backoffLimit": 3}
