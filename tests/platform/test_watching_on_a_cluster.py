"""A watch of a real API server, whose lists are not all alike."""

import asyncio

import pytest

from tasks.platform.informer import Informer
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.wire import name_of
from tests.cluster.control_plane import ControlPlane
from tests.platform.test_ownership_on_a_cluster import platform, reachable

__all__ = ["platform", "reachable"]
pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("metadata_only", [True, False], ids=["metadata", "whole"])
async def test_a_watch_that_begins_with_nothing_hears_of_the_first(
    control_plane: ControlPlane,
    platform: KubernetesPlatform,
    namespace: str,
    metadata_only: bool,
) -> None:
    informer = Informer(
        await platform.api(),
        "Service",
        labels={},
        key=name_of,
        namespaces=[namespace],
        metadata_only=metadata_only,
    )
    async with asyncio.timeout(60):
        await informer.start()
        make = ("create", "service", "clusterip", "first", "--tcp=80", f"--namespace={namespace}")
        control_plane.kubectl(*make)
        await informer.wait("first", timeout_s=60)
    await informer.stop()
    assert [name_of(each) for each in informer.select("first")] == ["first"]
