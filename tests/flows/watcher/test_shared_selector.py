"""Two Workspaces that ask for nodes by one label, as KAITO's examples do, each have their own."""

import time
from typing import Any

import pytest

from tests.flows.watcher.azure import Azure
from tests.flows.watcher.clouds import claims_of
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import Installation, wait_until
from tests.flows.watcher.test_aks_quick_start import azure, claiming, installed
from tests.flows.watcher.test_edits_on_made_nodes import on_a_gpu

__all__ = ["azure", "claiming", "installed"]
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

# By then the first has its claim, and its node is on its way.
_LATER_S = 3.0


@pytest.fixture
def namespace(installed: Installation, azure: Azure) -> str:
    return new_namespace(installed)


def apply_both(installed: Installation, namespace: str) -> None:
    """`first`, and `second` a little later."""
    for name in ("first", "second"):
        manifest = on_a_gpu(namespace, name)
        manifest["metadata"]["name"] = name
        manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "shared"}}
        manifest["tuning"]["output"]["image"] = f"registry.example.com/{namespace}/{name}:1"
        installed.apply(manifest)
        time.sleep(_LATER_S)


def delete(installed: Installation, namespace: str, *names: str) -> None:
    here = (f"--namespace={namespace}", "--timeout=120s")
    installed.kubectl("delete", "workspace", *names, *here)


def serving(installed: Installation, namespace: str, name: str) -> dict[str, Any]:
    """Its claim, which is its only one, once it is served on that one's node."""
    status = installed.wait_until_ready(namespace, name=name)
    [claim] = [
        each
        for each in claims_of(installed)
        if each["metadata"]["labels"]["kaito.sh/workspace"] == name
    ]
    pod = installed.get("pod", namespace, f"{name}-0")
    assert status["workerNodes"] == [claim["status"]["nodeName"]] == [pod["spec"]["nodeName"]]
    return {"claim": claim["metadata"]["uid"], "pod": pod["metadata"]["uid"]}


@pytest.mark.parametrize(("deleted", "kept"), [("first", "second"), ("second", "first")])
def test_what_one_serves_stays_on_its_node_when_the_other_is_deleted(
    installed: Installation, azure: Azure, namespace: str, deleted: str, kept: str
) -> None:
    apply_both(installed, namespace)
    before, other = (serving(installed, namespace, name) for name in (kept, deleted))
    assert before["claim"] != other["claim"]
    assert installed.leaks() == []
    delete(installed, namespace, deleted)
    assert serving(installed, namespace, kept) == before
    expect_only(installed, azure, kept)
    delete(installed, namespace, kept)
    assert (azure.arm.pools, claims_of(installed), installed.leaks()) == ({}, [], [])


@pytest.mark.parametrize(("deleted", "kept"), [("first", "second"), ("second", "first")])
def test_one_is_tuned_and_served_when_the_other_is_deleted_meanwhile(
    installed: Installation, azure: Azure, namespace: str, deleted: str, kept: str
) -> None:
    azure.held.add((namespace, "tune"))
    apply_both(installed, namespace)
    wait_until(lambda: azure.started[namespace, "tune"] == 2, "both to be tuned")
    delete(installed, namespace, deleted)
    azure.held.clear()
    serving(installed, namespace, kept)
    assert azure.started[namespace, "tune"] == 2
    expect_only(installed, azure, kept)
    delete(installed, namespace, kept)
    assert (azure.arm.pools, claims_of(installed), installed.leaks()) == ({}, [], [])


def expect_only(installed: Installation, azure: Azure, name: str) -> None:
    """No machine is there but the one of this Workspace."""
    [claim] = claims_of(installed)
    assert claim["metadata"]["labels"]["kaito.sh/workspace"] == name
    assert [*azure.arm.pools] == [claim["metadata"]["name"]]
    assert installed.leaks() == []
