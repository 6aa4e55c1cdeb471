"""Nodes are claimed, followed against deadlines and given back, on a real API server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from tasks.contract.errors import NoOfferLeft
from tasks.contract.workspace import Workspace
from tasks.nodes.aks.fulfiller import AksFulfiller
from tasks.nodes.claims.claiming import ClaimingProvisioner
from tasks.nodes.claims.deadlines import Deadlines
from tasks.nodes.claims.karpenter import KarpenterFulfiller
from tasks.nodes.claims.ledger import Ledger
from tasks.nodes.claims.node_claim import CLAIM, is_leaving, node_claim, node_name_of, offer_of
from tasks.nodes.claims.unavailable import NAME as REFUSED_OFFERS
from tasks.nodes.claims.unavailable import UnavailableOffers
from tasks.nodes.held_gpus import GpuHolder
from tasks.nodes.offers import Offer
from tasks.nodes.provisioner import Fulfiller, NodeNeed, ReadyNodes, Room, Waiting
from tasks.nodes.shared_look import SharedLook
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import owner_labels
from tests.nodes.arm import Arm, running_arm
from tests.nodes.azure import Azure
from tests.nodes.karpenter import Conduct, Karpenter, join
from tests.nodes.test_agent_pools import client_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

GOOD, BAD, WORSE = "Standard_NC24ads_A100_v4", "Standard_NC6s_v3", "Standard_NC4as_T4_v3"
PATIENT = Deadlines(launch_s=90, register_s=90, gpu_s=90, capacity_s=120, look_again_s=0.1)
NEED = NodeNeed(gpus=1)
Wanting = Callable[..., Workspace]


class Cluster:
    """A provisioner, who fulfils its claims, and the Workspaces that the cluster has."""

    def __init__(self, api: KubeApi, arm: Arm | None) -> None:
        self.api, self.arm, self.writing = api, arm, asyncio.Lock()
        self.actor: Karpenter | Azure | None = None
        self.workspaces: list[dict[str, Any]] = []
        self.held: list[GpuHolder] = []
        self.told: list[Waiting] = []
        self.hours_later = 0
        self.listed: SharedLook[Mapping[str, Any]] = SharedLook(self.nodes, fresh_s=0.0)

    @property
    def without_capacity(self) -> str:
        """The reason where the cloud has no machine: Karpenter only deletes the claim."""
        return "InsufficientCapacity" if self.arm else "NodeClaimDeleted"

    def play(self, conducts: Mapping[str, Conduct] = MappingProxyType({})) -> Karpenter | Azure:
        """Let claims be fulfilled, by instance type as it is said."""
        if self.arm:
            self.actor = Azure(self.api, self.arm, client_of(self.arm), conducts)
        else:
            self.actor = Karpenter(self.api, conducts)
        return self.actor

    def fulfiller(self) -> Fulfiller:
        if not isinstance(self.actor, Azure):
            return KarpenterFulfiller()
        return AksFulfiller(
            self.actor.pools,
            self.connected,
            list_nodes=self.nodes,
            writing=lambda: self.writing,
            installation="test",
            look_every_s=0.1,
        )

    async def connected(self) -> KubeApi:
        return self.api

    async def nodes(self) -> list[dict[str, Any]]:
        return await self.api.find("Node")

    async def holders(self) -> list[GpuHolder]:
        return self.held

    async def all_workspaces(self) -> list[dict[str, Any]]:
        return self.workspaces

    def provisioner(
        self, deadlines: Deadlines = PATIENT, *, max_nodes: int = 100, room: Room | None = None
    ) -> ClaimingProvisioner:
        return ClaimingProvisioner(
            Ledger(self.connected),
            self.fulfiller(),
            UnavailableOffers(
                self.connected,
                namespace="default",
                clock=lambda: datetime.now(UTC) + timedelta(hours=self.hours_later),
            ),
            list_nodes=self.listed,
            list_holders=self.holders,
            list_workspaces=self.all_workspaces,
            deadlines=deadlines,
            max_nodes=max_nodes,
            room=room,
        )

    async def ensure(
        self, workspace: Workspace, need: NodeNeed = NEED, **changes: Any
    ) -> ReadyNodes:
        async def tell(waiting: Waiting) -> None:
            self.told.append(waiting)

        max_nodes, room = changes.pop("max_nodes", 100), changes.pop("room", None)
        provisioner = self.provisioner(replace(PATIENT, **changes), max_nodes=max_nodes, room=room)
        return await provisioner.ensure_nodes(workspace, need, on_waiting=tell)

    async def claims(self) -> list[str]:
        return [c["metadata"]["name"] for c in await self.api.find(CLAIM, labels=MANAGED_BY)]

    async def all_say_their_nodes(self) -> None:
        """Return when each claim tells which node it has become: some time after it was one."""
        while not all(map(node_name_of, await self.api.find(CLAIM, labels=MANAGED_BY))):
            await asyncio.sleep(0.05)

    async def none_left(self) -> None:
        """Return when neither a claim nor a machine is there."""
        assert self.actor
        while await self.claims() or await self.actor.machines():
            await asyncio.sleep(0.1)


class Quota:
    """A cloud that has room for so many machines of a kind, and for all of others."""

    def __init__(self, instance_type: str, most: int) -> None:
        self.instance_type, self.most = instance_type, most

    async def lack(self, offer: Offer, count: int, claims: Sequence[Mapping[str, Any]]) -> str:
        if offer.instance_type != self.instance_type:
            return ""
        used = sum(offer_of(claim).instance_type == self.instance_type for claim in claims)
        return f"{used} of {self.most} are used" if used + count > self.most else ""


@pytest.fixture(params=["karpenter", "aks"])
async def cluster(api: KubeApi, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Nothing is refused or claimed yet; claims are fulfilled by others, or by us."""
    await api.delete("ConfigMap", "default", REFUSED_OFFERS)
    async with running_arm(Arm()) as arm:
        made = Cluster(api, arm if request.param == "aks" else None)
        yield made
        if made.actor:
            await made.actor.stop()


async def test_a_claimed_node_becomes_the_workspace_s(cluster: Cluster, wanting: Wanting) -> None:
    cluster.play()
    ready = await cluster.ensure(wanting(GOOD))
    [claim] = await cluster.claims()
    assert [node.name for node in ready.nodes] == [f"node-{claim}"]
    assert ready.are_claimed
    if cluster.arm:  # of Karpenter's a claim says it a little later
        assert [each.node for each in ready.machines] == [f"node-{claim}"]
    assert cluster.told[0].reason == "NodeClaimNotReady"
    assert cluster.told[0].are_claims_ready is False


async def test_machines_that_are_held_say_which_nodes_they_are(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play()
    workspace, provisioner = wanting(GOOD), cluster.provisioner()

    async def tell(_waiting: Waiting) -> None:
        pass

    await provisioner.ensure_nodes(workspace, NEED, on_waiting=tell)
    await cluster.all_say_their_nodes()
    [claim] = await cluster.claims()
    assert [each.node for each in await provisioner.held(workspace)] == [f"node-{claim}"]


async def test_runs_of_one_workspace_at_once_claim_once(cluster: Cluster, wanting: Wanting) -> None:
    actor, workspace = cluster.play(), wanting(GOOD)
    await asyncio.gather(*(cluster.ensure(workspace) for _ in range(5)))
    await cluster.ensure(workspace)
    assert actor.made == {GOOD: 1}


async def test_a_node_that_others_have_not_seen_join_is_not_lost(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, cluster.listed = cluster.play(), SharedLook(cluster.nodes, fresh_s=60.0)
    assert await cluster.listed() == []
    await cluster.ensure(wanting(GOOD))
    assert actor.made == {GOOD: 1}


async def test_as_many_nodes_are_claimed_as_are_needed(cluster: Cluster, wanting: Wanting) -> None:
    actor = cluster.play()
    ready = await cluster.ensure(wanting(GOOD), replace(NEED, nodes=3))
    assert (len(ready.nodes), actor.made) == (3, {GOOD: 3})


@pytest.mark.parametrize(
    ("conduct", "reason"),
    [
        ("silent", "NodeLaunchTimedOut"),
        ("no-node", "NodeRegistrationTimedOut"),
        ("no-gpu", "GpuNotReady"),
        ("deletes", ""),
    ],
)
async def test_after_a_missed_deadline_the_next_offer_is_tried(
    cluster: Cluster, wanting: Wanting, conduct: Conduct, reason: str
) -> None:
    actor = cluster.play({BAD: conduct})
    ready = await cluster.ensure(wanting(BAD, GOOD), launch_s=3, register_s=3, gpu_s=3)
    assert len(ready.nodes) == 1
    assert (actor.made[BAD], actor.made[GOOD]) == (1, 1)
    memory = await cluster.api.get("ConfigMap", "default", REFUSED_OFFERS)
    assert memory is not None
    [text] = memory["data"].values()
    assert (reason or cluster.without_capacity) in text


async def test_a_machine_is_paid_for_from_its_launch_on_also_one_of_no_use(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play({BAD: "no-gpu"})
    ready = await cluster.ensure(wanting(BAD, GOOD), gpu_s=3)
    told = [[machine.instance_type for machine in each.machines or ()] for each in cluster.told]
    assert told[0] == []
    assert [BAD] in told
    assert [machine.instance_type for machine in ready.machines] == [GOOD]


async def test_after_two_machines_without_gpus_no_third_is_bought(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, workspace = cluster.play({BAD: "no-gpu"}), wanting(BAD)
    with pytest.raises(NoOfferLeft):
        await cluster.ensure(workspace, gpu_s=1, capacity_s=4)
    cluster.hours_later = 2
    for _ in range(2):
        with pytest.raises(NoOfferLeft, match="no third is bought; .*kubectl delete configmap"):
            await cluster.ensure(workspace, gpu_s=1)
        cluster.hours_later += 48
    assert actor.made == {BAD: 2}


async def test_what_is_never_launched_costs_nothing(cluster: Cluster, wanting: Wanting) -> None:
    cluster.play({BAD: "silent"})
    await cluster.ensure(wanting(BAD, GOOD), launch_s=3)
    assert BAD not in {m.instance_type for told in cluster.told for m in told.machines or ()}


async def test_with_no_offer_left_it_says_why_and_when_and_asks_no_more(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play({BAD: "deletes", WORSE: "deletes"})
    with pytest.raises(NoOfferLeft, match="tried again at [0-9:]+ UTC") as raised:
        await cluster.ensure(wanting(BAD, WORSE), capacity_s=8)
    assert BAD in str(raised.value)
    assert WORSE in str(raised.value)
    assert actor.made == {BAD: 1, WORSE: 1}
    assert cluster.told[-1].reason == cluster.without_capacity


async def test_an_offer_that_has_rested_is_tried_again(cluster: Cluster, wanting: Wanting) -> None:
    actor, workspace = cluster.play({BAD: "deletes"}), wanting(BAD)
    with pytest.raises(NoOfferLeft):
        await cluster.ensure(workspace, capacity_s=3)
    cluster.hours_later = 2
    with pytest.raises(NoOfferLeft):
        await cluster.ensure(workspace, capacity_s=3)
    assert actor.made == {BAD: 2}


async def test_no_more_nodes_are_claimed_than_the_installation_may(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play()
    with pytest.raises(NoOfferLeft, match="at most 1; delete Workspaces"):
        await cluster.ensure(wanting(GOOD), replace(NEED, nodes=2), max_nodes=1, capacity_s=1)
    assert actor.made == {}


async def test_what_the_quota_has_no_room_for_is_not_claimed_and_waits_until_it_has(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, room = cluster.play(), Quota(GOOD, most=1)
    provisioner, told = cluster.provisioner(room=room), list[Waiting]()

    async def tell(waiting: Waiting) -> None:
        told.append(waiting)

    async def ensure(name: str) -> ReadyNodes:
        workspace = wanting(GOOD, name=name, uid=f"{name}-uid")
        need = replace(NEED, labels=owner_labels(workspace.metadata))
        return await provisioner.ensure_nodes(workspace, need, on_waiting=tell)

    runs = [asyncio.create_task(ensure(name)) for name in ("first", "second")]
    async with asyncio.timeout(60):
        await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        while not any("waits for quota: 1 of 1 are used" in each.message for each in told):
            await asyncio.sleep(0.05)
    assert [each.reason for each in told if each.is_in_vain] == ["InsufficientQuota"]
    assert actor.made == {GOOD: 1}
    room.most = 2
    await asyncio.gather(*runs)
    assert actor.made == {GOOD: 2}
    assert await cluster.api.get("ConfigMap", "default", REFUSED_OFFERS) is None  # nothing rests


async def test_where_the_first_offer_s_quota_has_no_room_the_next_one_is_claimed(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play()
    await cluster.ensure(wanting(BAD, GOOD), room=Quota(BAD, most=0))
    assert actor.made == {GOOD: 1}


async def test_released_twice_nothing_is_left(cluster: Cluster, wanting: Wanting) -> None:
    cluster.play()
    workspace = wanting(GOOD)
    await cluster.ensure(workspace)
    await cluster.provisioner().release(workspace)
    await cluster.provisioner().release(workspace)
    await cluster.none_left()


async def test_what_the_next_run_claims_meanwhile_is_not_given_back(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play()
    if cluster.arm:
        cluster.arm.seconds = 0.5
    workspace = wanting(GOOD)
    await cluster.ensure(workspace)
    [first] = await cluster.claims()
    releasing = asyncio.create_task(cluster.provisioner().release(workspace, is_final=False))
    while (claim := await cluster.api.get(CLAIM, None, first)) and not is_leaving(claim):
        await asyncio.sleep(0.02)
    second = node_claim(workspace, Offer(instance_type=GOOD), slot=1, disk_gib=100)
    await cluster.api.create(CLAIM, None, second)
    await releasing
    kept = await cluster.api.get(CLAIM, None, second["metadata"]["name"])
    assert kept
    assert not is_leaving(kept)


async def test_the_nodes_that_are_still_used_are_not_given_back(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play()
    workspace = wanting(GOOD)
    ready = await cluster.ensure(workspace, replace(NEED, nodes=2))
    await cluster.all_say_their_nodes()
    kept = ready.nodes[0].name
    [held] = await cluster.provisioner().release(workspace, is_final=False, keep={kept})
    assert [f"node-{name}" for name in await cluster.claims()] == [kept]
    assert held.name in await cluster.claims()
    assert await cluster.provisioner().release(workspace) == ()


async def test_a_claim_that_does_not_say_yet_which_node_it_has_become_is_still_held(
    cluster: Cluster, wanting: Wanting
) -> None:
    workspace = wanting(GOOD)
    claim = node_claim(workspace, Offer(instance_type=GOOD), slot=0, disk_gib=100)
    await cluster.api.create(CLAIM, None, claim)
    await join(cluster.api, "kept", labels=claim["metadata"]["labels"], gpus=1)
    [held] = await cluster.provisioner().release(workspace, is_final=False, keep={"kept"})
    assert (held.name, held.node, held.until) == (claim["metadata"]["name"], "", "")
    await cluster.api.delete("Node", None, "kept")


@pytest.mark.parametrize("cluster", ["aks"], indirect=True)
async def test_a_claim_of_ours_that_somebody_deletes_is_claimed_again_and_rests_no_offer(
    cluster: Cluster, wanting: Wanting
) -> None:
    assert cluster.arm
    cluster.arm.seconds = 1.0
    cluster.play()
    ensuring = asyncio.create_task(cluster.ensure(wanting(GOOD)))
    while not (claims := await cluster.claims()):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)  # it has been seen on its way
    await cluster.api.delete(CLAIM, None, claims[0])
    assert (await ensuring).nodes
    assert await cluster.api.get("ConfigMap", "default", REFUSED_OFFERS) is None


@pytest.mark.parametrize("cluster", ["karpenter"], indirect=True)
async def test_a_claim_that_a_late_stop_gives_back_rests_no_offer_of_karpenters_either(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play({GOOD: "silent"})
    provisioner, workspace = cluster.provisioner(), wanting(GOOD)

    async def hear(waiting: Waiting) -> None:
        del waiting

    ensuring = asyncio.create_task(provisioner.ensure_nodes(workspace, NEED, on_waiting=hear))
    while not (before := await cluster.api.find(CLAIM, labels=MANAGED_BY)):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)  # it has been seen on its way
    await provisioner.release(workspace)
    while not (after := await cluster.api.find(CLAIM, labels=MANAGED_BY)) or after == before:
        await asyncio.sleep(0.02)
    assert await cluster.api.get("ConfigMap", "default", REFUSED_OFFERS) is None
    ensuring.cancel()


async def test_a_claim_of_another_workspace_of_that_name_is_left_alone(
    cluster: Cluster, wanting: Wanting
) -> None:
    cluster.play()
    await cluster.ensure(wanting(GOOD, uid="first"))
    await cluster.provisioner().release(wanting(GOOD, uid="second"))
    assert len(await cluster.claims()) == 1


async def test_a_claim_that_is_not_ours_is_never_touched(
    cluster: Cluster, wanting: Wanting
) -> None:
    workspace = wanting(GOOD)
    foreign = node_claim(workspace, Offer(instance_type=GOOD), slot=0, disk_gib=100)
    foreign["metadata"]["name"] = "foreign"
    del foreign["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    await cluster.api.create(CLAIM, None, foreign)
    await cluster.provisioner().release(workspace)
    assert await cluster.api.get(CLAIM, None, "foreign")
    await cluster.api.delete(CLAIM, None, "foreign")


async def test_a_node_is_not_shared_with_a_workspace_of_the_same_selector(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play()
    first, second = wanting(GOOD, name="first"), wanting(GOOD, name="second")
    need = replace(NEED, labels=first.resource.label_selector.match_labels)
    ready = await cluster.ensure(first, need)
    assert (await cluster.ensure(second, need)).nodes != ready.nodes
    assert actor.made == {GOOD: 2}


async def test_the_last_of_those_who_share_a_node_gives_it_back(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play()
    first, second = wanting(GOOD, name="first"), wanting(GOOD, name="second")
    ready = await cluster.ensure(first)
    await cluster.all_say_their_nodes()
    running = {"state": "Ready", "workerNodes": [ready.nodes[0].name]}
    metadata = {"name": "second", "namespace": "team", "uid": second.metadata.uid}
    cluster.workspaces = [{"metadata": metadata, "status": running}]
    await cluster.provisioner().release(first)
    assert len(await cluster.claims()) == 1
    cluster.workspaces = []
    await cluster.provisioner().release(second)
    await cluster.none_left()
    assert actor.made == {GOOD: 1}


async def test_a_node_whose_gpu_is_in_use_is_left_and_one_more_is_claimed(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, workspace = cluster.play(), wanting(GOOD)
    ready = await cluster.ensure(workspace)
    cluster.held = [GpuHolder(node=ready.nodes[0].name, namespace="x", pod="web-0", gpus=1)]
    beside = await cluster.ensure(workspace)
    assert beside.nodes != ready.nodes
    assert actor.made == {GOOD: 2}
    cluster.held += [replace(cluster.held[0], node=beside.nodes[0].name)]
    with pytest.raises(NoOfferLeft, match="in use by x/web-0"):
        await cluster.ensure(workspace, capacity_s=1)
    assert actor.made == {GOOD: 2}


async def test_an_edited_instance_type_is_claimed_instead_of_one_that_does_not_come(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor = cluster.play({BAD: "silent"})
    before = wanting(BAD, uid="edited")
    with pytest.raises(NoOfferLeft):
        await cluster.ensure(before, capacity_s=1)
    resource = before.resource.model_copy(update={"instance_type": GOOD})
    await cluster.ensure(before.model_copy(update={"resource": resource}))
    assert (actor.made[BAD], actor.made[GOOD]) == (1, 1)
    while len(await cluster.claims()) > 1:
        await asyncio.sleep(0.1)


async def test_an_evicted_node_is_claimed_again(cluster: Cluster, wanting: Wanting) -> None:
    actor, workspace = cluster.play(), wanting(GOOD)
    ready = await cluster.ensure(workspace)
    await actor.evict(ready.nodes[0].name)
    again = await cluster.ensure(workspace)
    assert len(again.nodes) == 1
    assert actor.made == {GOOD: 2}


async def says_it_goes(cluster: Cluster, node: str) -> None:
    """As Azure's problem detector says of a spot machine, half a minute ahead."""
    notice = {"type": "PreemptionScheduled", "status": "True", "reason": "SpotEvictionIncoming"}
    seen = await cluster.api.get("Node", None, node)
    assert seen
    conditions = [*seen["status"]["conditions"], notice]
    patch = {"status": {"conditions": conditions}}
    await cluster.api.merge("Node", None, node, patch, subresource="status")


async def test_a_node_that_says_that_it_goes_is_replaced_before_and_then_given_back(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, workspace = cluster.play(), wanting(GOOD)
    first = (await cluster.ensure(workspace)).nodes[0].name
    await says_it_goes(cluster, first)
    cluster.told.clear()
    ready = await cluster.ensure(workspace)
    assert ready.nodes[0].name != first
    assert actor.made == {GOOD: 2}
    assert {each.reason for each in cluster.told} == {"NodeLost"}
    assert f"node {first} is taken away soon (PreemptionScheduled)" in cluster.told[0].message
    while len(await cluster.claims()) > 1:
        await cluster.ensure(workspace)  # as a run looks again and again
        await asyncio.sleep(0.1)
    assert await cluster.api.get("Node", None, first) is None


async def test_a_node_whose_claim_a_person_has_deleted_is_replaced_before_it_goes(
    cluster: Cluster, wanting: Wanting
) -> None:
    actor, workspace = cluster.play(), wanting(GOOD)
    ready = await cluster.ensure(workspace)
    [claim] = await cluster.claims()
    await cluster.api.delete(CLAIM, None, claim)
    again = await cluster.ensure(workspace)
    assert [node.name for node in again.nodes] != [node.name for node in ready.nodes]
    assert actor.made == {GOOD: 2}
