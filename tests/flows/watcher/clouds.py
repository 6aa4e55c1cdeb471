"""Nodes that are made for Workspaces: who plays the cloud, and the Workspaces that ask for them."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.cluster.simulated_node import SimulatedNode, simulated_node
from tests.flows.watcher.installation import Installation, workspace_manifest
from tests.nodes.arm import Arm, running_arm


def wanting(namespace: str, **annotations: str) -> dict[str, Any]:
    """The quick start's Workspace, for a node that is not there yet."""
    manifest = workspace_manifest(namespace)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": namespace}}
    manifest["metadata"]["annotations"] = annotations
    return manifest


def joining(
    installed: Installation, name: str, labels: Mapping[str, str], *, instance_type: str
) -> AbstractContextManager[SimulatedNode]:
    """A machine that becomes a node and plays its kubelet, for as long as the context lasts."""
    certificates = installed.control_plane.folder / "certificates"
    own = {"node.kubernetes.io/instance-type": instance_type, "kubernetes.io/hostname": name}
    return simulated_node(
        installed.control_plane.kubeconfig,
        name,
        labels={**labels, **own},
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    )


@contextmanager
def arm_in_a_thread() -> Iterator[Arm]:
    """The ARM server, beside tests that wait."""
    arm, loop, is_over = Arm(), asyncio.new_event_loop(), asyncio.Event()
    is_there = threading.Event()

    async def serve() -> None:
        async with running_arm(arm):
            is_there.set()
            await is_over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="arm")
    thread.start()
    try:
        assert is_there.wait(30)
        yield arm
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
        loop.close()
