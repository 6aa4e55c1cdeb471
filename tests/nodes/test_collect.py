"""Leaks are found and removed on a real API server, by Karpenter's part and by Azure's client."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import CloudUnavailable
from tasks.contract.workspace import FINALIZER, Workspace, parse_workspace
from tasks.nodes.claims.node_claim import CLAIM
from tasks.nodes.garbage.collector import GarbageCollector, WithRun
from tasks.nodes.garbage.leaks import LeakKind
from tasks.platform.kube_api import KubeApi
from tasks.skus.prices import price_table
from tests.builders import tuning_manifest
from tests.cluster.control_plane import ControlPlane
from tests.nodes.arm import CLUSTER, GROUP, SUBSCRIPTION, Arm, Fault, running_arm
from tests.nodes.azure import Azure
from tests.nodes.test_claiming import GOOD, NEED, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CRD = Path(__file__).parents[2] / "deployments/crds/kaito.sh_workspaces.yaml"


@dataclass
class Site:
    """A cluster on which nodes are made, and a collector that gives nothing any grace."""

    cluster: Cluster
    namespace: str
    kubeconfig: Path

    @property
    def api(self) -> KubeApi:
        return self.cluster.api

    @property
    def arm(self) -> Arm:
        assert isinstance(self.cluster.actor, Azure)
        return self.cluster.actor.arm

    def collector(self, with_run: WithRun | None = None) -> GarbageCollector:
        return GarbageCollector(
            self.cluster.connected,
            self.cluster.fulfiller(),
            price_per_hour=price_table().price_per_hour,
            grace_s=0,
            with_run=with_run,
        )

    async def running(self, name: str = "tuned") -> tuple[Workspace, str]:
        """A Workspace that runs on a node made for it, and the node."""
        manifest = tuning_manifest(name)
        manifest["resource"] = {
            "instanceType": GOOD,
            "labelSelector": {"matchLabels": {"apps": self.namespace}},
        }
        kept = await self.api.create("Workspace", self.namespace, manifest)
        assert kept
        workspace = parse_workspace(kept, source="test")
        shared = replace(NEED, labels=workspace.resource.label_selector.match_labels)
        ready = await self.cluster.ensure(workspace, shared)
        node = ready.nodes[0].name
        await self.tell(name, state="Running", workerNodes=[node])
        return workspace, node

    async def tell(self, name: str, **status: Any) -> None:
        patch = {"status": {"observedGeneration": 1, **status}}
        await self.api.merge("Workspace", self.namespace, name, patch, subresource="status")

    async def forget(self, name: str = "tuned") -> None:
        """Nobody releases the Workspace: whoever should is dead."""
        await self.api.delete("Workspace", self.namespace, name)

    async def lose_claim(self) -> None:
        """Somebody takes the finalizers off, and the claim is gone."""
        [name] = await self.cluster.claims()
        await self.api.delete(CLAIM, None, name)
        await self.api.merge(CLAIM, None, name, {"metadata": {"finalizers": None}})

    async def kaitoflow(self, *arguments: str) -> tuple[int | None, str]:
        """Exit code and standard output of a command."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows", *arguments),
            env=os.environ | self._environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    def _environment(self) -> dict[str, str]:
        ours = {"KUBECONFIG": str(self.kubeconfig), "KAITOFLOW_PLATFORM": "kubernetes"}
        ours |= {"KAITOFLOW_GARBAGE_GRACE_S": "0", "KAITOFLOW_NAMESPACE": "test"}
        if not isinstance(self.cluster.actor, Azure):
            return ours | {"KAITOFLOW_PROVISIONER": "karpenter"}
        return ours | {
            "KAITOFLOW_PROVISIONER": "aks",
            "KAITOFLOW_AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "KAITOFLOW_AZURE_RESOURCE_GROUP": GROUP,
            "KAITOFLOW_AZURE_CLUSTER": CLUSTER,
            "KAITOFLOW_AZURE_ENDPOINT": self.arm.url,
        }


@pytest.fixture(params=["karpenter", "aks"])
async def site(
    claims_server: ControlPlane, namespace: str, api: KubeApi, request: pytest.FixtureRequest
) -> AsyncIterator[Site]:
    """Nothing is claimed yet; claims are fulfilled by others, or by us."""
    claims_server.define("workspaces.kaito.sh", CRD.read_text())
    async with running_arm(Arm()) as arm:
        cluster = Cluster(api, arm if request.param == "aks" else None)
        actor = cluster.play()
        yield Site(cluster, namespace, claims_server.kubeconfig)
        await actor.stop()


on_aks = pytest.mark.parametrize("site", ["aks"], indirect=True)


async def test_what_a_living_workspace_has_is_no_leak(site: Site) -> None:
    await site.running()
    assert await site.collector().collect() == ()
    assert len(await site.cluster.claims()) == 1


async def test_the_claim_of_a_workspace_that_is_gone_goes_with_its_machine(site: Site) -> None:
    workspace, _ = await site.running()
    [claim] = await site.cluster.claims()
    await site.forget()
    [removed] = await site.collector().collect()
    assert (removed.kind, removed.name) == (LeakKind.NO_WORKSPACE, claim)
    assert removed.workspace == str(workspace.metadata)
    await site.cluster.none_left()
    assert not await site.collector().leaks()


async def test_the_claim_of_a_workspace_that_has_ended_goes_with_its_machine(site: Site) -> None:
    await site.running()
    await site.tell("tuned", state="Failed")
    [removed] = await site.collector().collect()
    assert removed.kind == LeakKind.ENDED_WORKSPACE
    await site.cluster.none_left()


async def test_the_node_that_another_workspace_runs_on_stays(site: Site) -> None:
    _, node = await site.running("first")
    [claim] = await site.cluster.claims()
    await site.running("second")
    await site.tell("second", state="Running", workerNodes=[node])
    await site.forget("first")
    assert await site.collector().collect() == ()
    await site.tell("second", state="Running", workerNodes=[])
    assert [leak.name for leak in await site.collector().collect()] == [claim]


async def test_a_machine_that_a_settled_workspace_does_not_use_is_given_back(site: Site) -> None:
    _, node = await site.running()
    await site.tell("tuned", state="Ready", workerNodes=[node])
    assert await site.collector().collect() == ()
    await site.tell("tuned", state="Ready", workerNodes=["another"])
    assert [leak.kind for leak in await site.collector().collect()] == [LeakKind.UNUSED]
    await site.cluster.none_left()


async def test_a_ready_node_stays_as_long_as_it_has_a_pod(site: Site) -> None:
    _, node = await site.running()
    container = {"name": "work", "image": "work"}
    spec = {"nodeName": node, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "work"}, "spec": spec}
    await site.api.create("Pod", site.namespace, pod)
    await site.forget()
    assert await site.collector().collect() == ()
    [kept] = await site.collector().leaks()
    assert f"runs pod {site.namespace}/work" in kept.kept_because
    await site.api.delete("Pod", site.namespace, "work", body={"gracePeriodSeconds": 0})
    assert [leak.name for leak in await site.collector().collect()] == [kept.name]


async def test_a_workspace_whose_run_is_lost_is_told_and_keeps_its_machine(site: Site) -> None:
    workspace, node = await site.running()
    held = {"metadata": {"finalizers": [FINALIZER]}}
    await site.api.merge("Workspace", site.namespace, "tuned", held)
    answers = [{workspace.metadata.uid}, set[str](), set[str](), set[str]()]

    async def with_run() -> set[str]:
        return answers.pop(0)

    collector = site.collector(with_run)
    assert await collector.leaks() == []  # it ended while the others were listed
    [lost] = await collector.leaks()
    assert (lost.kind, lost.name, lost.nodes) == (LeakKind.NO_RUN, "tuned", (node,))
    answers += [set[str](), set[str]()]
    assert await collector.collect() == ()
    assert len(await site.cluster.claims()) == 1
    let_go = {"metadata": {"finalizers": None}}
    await site.api.merge("Workspace", site.namespace, "tuned", let_go)
    await site.forget()


@on_aks
async def test_a_pool_without_a_claim_is_removed(site: Site) -> None:
    await site.running()
    [pool] = site.arm.pools
    await site.forget()
    await site.lose_claim()
    [removed] = await site.collector().collect()
    assert (removed.kind, removed.name) == (LeakKind.NO_CLAIM, pool)
    assert removed.workspace == f"{site.namespace}/tuned"
    await site.cluster.none_left()


@on_aks
async def test_a_claim_without_its_pool_is_given_up(site: Site) -> None:
    _, node = await site.running()
    site.arm.pools.clear()
    await site.api.delete("Node", None, node)
    [removed] = await site.collector().collect()
    assert removed.kind == LeakKind.NO_POOL
    assert await site.cluster.claims() == []


@on_aks
async def test_a_claim_that_nobody_sees_off_any_more_is_brought_to_its_end(site: Site) -> None:
    await site.running()
    await site.forget()
    [claim] = await site.cluster.claims()
    await site.api.delete(CLAIM, None, claim)
    await site.collector().collect()
    assert (await site.cluster.claims(), site.arm.pools) == ([], {})


@on_aks
async def test_pools_that_are_not_ours_stay(site: Site) -> None:
    for name, tags in (("system", {}), ("other", {"kaitoflow-installation": "another"})):
        properties = {"provisioningState": "Succeeded", "vmSize": GOOD, "tags": tags}
        site.arm.pools[name] = {"name": name, "properties": properties}
    assert await site.collector().collect() == ()
    assert [*site.arm.pools] == ["system", "other"]
    assert site.arm.calls["DELETE"] == 0


@on_aks
async def test_when_a_listing_fails_nothing_is_removed(site: Site) -> None:
    await site.running()
    await site.forget()
    site.arm.fault("LIST", *(Fault() for _ in range(3)))
    with pytest.raises(CloudUnavailable, match="the cluster's agent pools were listed"):
        await site.collector().collect()
    [claim] = await site.api.find(CLAIM)
    assert "deletionTimestamp" not in claim["metadata"]


@on_aks
async def test_a_pool_that_cannot_be_removed_hinders_no_other(site: Site) -> None:
    await site.running("first")
    await site.lose_claim()
    await site.forget("first")
    gone = {"apps": "nobody"}
    [pool] = site.arm.pools.values()
    other = {**pool, "name": "ws2", "properties": {**pool["properties"], "nodeLabels": gone}}
    site.arm.pools["ws2"] = other
    other["properties"]["tags"] = pool["properties"]["tags"] | {"kaitoflow-claim": "ws2"}
    site.arm.fault("DELETE", *(Fault() for _ in range(3)))
    with pytest.raises(CloudUnavailable, match="was to go"):
        await site.collector().collect()
    await site.arm.quiet()
    assert len(site.arm.pools) == 1


@pytest.mark.timeout(400)
@pytest.mark.slow
async def test_the_command_lists_leaks_with_their_price_removes_them_and_prints_0(
    site: Site,
) -> None:
    await site.running()
    await site.forget()
    [claim] = await site.cluster.claims()
    exit_code, said = await site.kaitoflow("leaks")
    heading, row, verdict = said.splitlines()
    assert heading.split() == ["NAME", "KIND", "WORKSPACE", "INSTANCE", "SINCE", "PRICE/H"]
    price = price_table().price_per_hour(GOOD, "on-demand")
    assert row.split()[:2] == [claim, "claim-without-workspace"]
    assert row.split()[-1] == f"${price:.2f}"
    assert verdict == (f"1 leak, ${price:.2f} per hour; remove with: kaitoflow leaks --collect")
    assert exit_code == 1
    assert json.loads((await site.kaitoflow("leaks", "-o", "json"))[1])["pricePerHour"] == price
    assert await site.kaitoflow("leaks", "--collect") == (0, "0 leaks\n")
    await site.cluster.none_left()
    assert await site.kaitoflow("leaks") == (0, "0 leaks\n")
