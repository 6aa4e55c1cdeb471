"""The step tells in the Workspace's conditions what it waits for, and what it got."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import Node
from tasks.contract.errors import NodeNotReady
from tasks.contract.held_cost import HeldMachine
from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace
from tasks.nodes import task as step
from tasks.nodes.byo import ByoProvisioner
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, Waiting, WaitingListener
from tasks.platform.current import current_platform, local_platform
from tasks.platform.tolerations import TOLERATIONS_ANNOTATION as TOLERATIONS
from tasks.settings import settings
from tasks.steps import change_status
from tests.builders import tuning_workspace
from tests.contract.test_held_cost import machine
from tests.nodes.test_byo import nobody, node

CONDITIONS = (ConditionType.NODES_READY, ConditionType.RESOURCE_READY)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A Workspace whose status this machine keeps, in a folder of the test."""
    caches = (settings, current_platform, local_platform)
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    for cache in caches:
        cache.cache_clear()
    yield local_platform().store.apply(Manifests(workspace=tuning_workspace()))
    for cache in caches:
        cache.cache_clear()


async def conditions(workspace: Workspace) -> tuple[WorkspaceStatus, set[tuple[str, str]]]:
    """The status, and what both conditions on nodes say: status and reason."""
    status = await current_platform().read_status(workspace)
    found = [status.condition(kind) for kind in CONDITIONS]
    return status, {(each.status, each.reason) for each in found if each}


async def test_on_one_machine_the_step_takes_the_machine(workspace: Workspace) -> None:
    found = await step.provision_node.fn(workspace)
    status, said = await conditions(workspace)
    assert status.worker_nodes == [found.name]
    assert said == {("True", "NodesReady"), ("True", "workspaceResourceStatusSuccess")}
    assert [each.name for each in status.steps] == ["provision"]


async def test_while_it_waits_the_conditions_say_what_nodes_lack(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[list[dict[str, Any]]] = [[node(ready="False")], [node()]]
    seen: list[set[tuple[str, str]]] = []

    async def listed() -> Sequence[dict[str, Any]]:
        seen.append((await conditions(workspace))[1])
        return states.pop(0)

    byo = ByoProvisioner(listed, nobody, timeout_s=60, look_again_s=0)
    monkeypatch.setattr(step, "current_provisioner", lambda: byo)
    await step.provision_node.fn(workspace)
    status, said = await conditions(workspace)
    assert seen == [set(), {("False", "NodeNotReady")}]
    assert said == {("True", "NodesReady"), ("True", "workspaceResourceStatusSuccess")}
    assert status.worker_nodes == ["gpu-1"]


async def test_a_wait_in_vain_leaves_in_the_conditions_why(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listed() -> Sequence[dict[str, Any]]:
        return [node(unschedulable=True)]

    byo = ByoProvisioner(listed, nobody, timeout_s=0.05, look_again_s=0.01)
    monkeypatch.setattr(step, "current_provisioner", lambda: byo)
    with pytest.raises(NodeNotReady, match="1 is cordoned; let it take pods again"):
        await step.provision_node.fn(workspace, memory_gib=1.0)
    status, said = await conditions(workspace)
    assert said == {("False", "NodeNotReady")}
    assert "1 is cordoned" in status.progress.phase


async def held(workspace: Workspace) -> list[str]:
    """The machines that the status says are paid for now."""
    cost = (await current_platform().read_status(workspace)).cost
    return [machine.name for machine in cost.machines if not machine.until]


class Maker:
    """Makes a machine that is of no use, loses sight of the cloud, and makes another one."""

    makes_nodes = True

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.kept: Collection[str] = ()

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        for machines in ((machine("a"),), None, ()):
            await on_waiting(Waiting(reason="R", message="m", machines=machines))
            self.told.append(await held(workspace))
        node = Node(name="b", cores=1, memory_gib=1)
        made = machine("b", instance_type="Standard_NC6s_v3")
        return ReadyNodes(nodes=(node,), detail="d", are_claimed=True, machines=(made,))

    async def held(self, workspace: Workspace) -> tuple[HeldMachine, ...]:
        return (machine("b").model_copy(update={"node": "b"}),)

    async def release(
        self, workspace: Workspace, *, is_final: bool = True, keep: Collection[str] = ()
    ) -> tuple[HeldMachine, ...]:
        self.kept = keep
        return (machine("b"),) if "b" in keep else ()


async def test_every_machine_is_in_the_cost_until_it_is_held_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    monkeypatch.setattr(step, "current_provisioner", lambda: maker)
    await step.provision_node.fn(workspace)
    assert maker.told == [["a"], ["a"], []]
    assert await held(workspace) == ["b"]
    await step.give_back_nodes(workspace)
    assert await held(workspace) == []
    cost = (await current_platform().read_status(workspace)).cost
    assert [(each.name, each.price_per_hour) for each in cost.machines] == [
        ("a", 7.346),
        ("b", 3.06),
    ]


SERVED = ConditionType.INFERENCE_READY


def test_what_an_older_generation_serves_keeps_its_nodes_when_an_edit_is_refused() -> None:
    status = WorkspaceStatus(state=State.FAILED, observed_generation=2, worker_nodes=["gpu", "new"])
    status.set_condition(SERVED, status="True", reason="R", generation=1)
    assert step.nodes_of_server(status, {"gpu"}) == {"gpu"}
    assert step.nodes_of_server(status, ()) == {"gpu", "new"}  # its pod is on its way to a node
    assert step.nodes_of_server(status, None) == set()  # the newer generation took its place


def test_a_failed_run_that_nothing_is_served_of_keeps_no_node() -> None:
    status = WorkspaceStatus(state=State.FAILED, worker_nodes=["gpu"])
    assert step.nodes_of_server(status, {"gpu"}) == set()
    status.set_condition(SERVED, status="False", reason="StopRequested")
    assert step.nodes_of_server(status, {"gpu"}) == set()


@pytest.mark.parametrize("is_served", [True, False])
async def test_a_failed_run_gives_back_all_nodes_but_those_of_the_server(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    maker = Maker()
    monkeypatch.setattr(step, "current_provisioner", lambda: maker)
    await step.provision_node.fn(workspace)
    if is_served:
        await change_status(
            workspace, lambda status: status.set_condition(SERVED, status="True", reason="R")
        )
    kept = await step.keep_server_nodes(workspace)
    if is_served:  # which is told before any other goes, with the nodes that machines are by now
        status = await current_platform().read_status(workspace)
        assert status.worker_nodes == sorted(kept)
        assert [each.node for each in status.cost.machines if not each.until] == ["b"]
    await step.give_back_nodes(workspace, keep=kept)
    expected = ["b"] if is_served else []
    status = await current_platform().read_status(workspace)
    assert (sorted(maker.kept), await held(workspace)) == (expected, expected)
    assert (status.worker_nodes, status.is_true(SERVED)) == (expected, is_served)


async def test_a_newer_generation_s_nodes_are_added_to_those_of_what_serves(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(status: WorkspaceStatus) -> None:
        status.observed_generation, status.worker_nodes = 2, ["gpu"]
        status.set_condition(SERVED, status="True", reason="R", generation=1)

    monkeypatch.setattr(step, "current_provisioner", Maker)
    await change_status(workspace, serve)
    await step.provision_node.fn(workspace, server_ends=False)
    status = await current_platform().read_status(workspace)
    assert status.worker_nodes == ["b", "gpu"]


def served_in_generation_1(status: WorkspaceStatus) -> None:
    status.observed_generation, status.worker_nodes = 2, ["gpu"]
    for kind in (*CONDITIONS, SERVED):
        status.set_condition(kind, status="True", reason="R", generation=1)


async def test_what_serves_is_shown_with_its_nodes_while_a_newer_generation_waits_for_its_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listed() -> Sequence[dict[str, Any]]:
        return [node(unschedulable=True)]

    byo = ByoProvisioner(listed, nobody, timeout_s=0.05, look_again_s=0.01)
    monkeypatch.setattr(step, "current_provisioner", lambda: byo)
    await change_status(workspace, served_in_generation_1)
    with pytest.raises(NodeNotReady):
        await step.provision_node.fn(workspace, memory_gib=1.0, server_ends=False)
    status, said = await conditions(workspace)
    assert said == {("True", "R")}
    started = status.condition(ConditionType.JOB_STARTED)
    assert started is not None
    assert (started.status, started.reason) == ("False", "NodeNotReady")
    assert (started.observed_generation, "1 is cordoned" in started.message) == (2, True)


async def test_the_nodes_are_those_of_the_newer_generation_once_it_serves(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(status: WorkspaceStatus) -> None:
        status.set_condition(SERVED, status="True", reason="R")

    monkeypatch.setattr(step, "current_provisioner", Maker)
    await change_status(workspace, served_in_generation_1)
    await step.provision_node.fn(workspace, server_ends=False)
    await change_status(workspace, serve)
    await step.give_back_nodes(workspace, keep=await step.keep_server_nodes(workspace))
    status, _ = await conditions(workspace)
    for kind in CONDITIONS:
        found = status.condition(kind)
        assert found is not None
        assert (found.status, found.observed_generation) == ("True", 2)


@pytest.mark.parametrize(("waited", "is_ready"), [("NodeClaimNotReady", True), ("NotAsked", False)])
async def test_claims_of_a_run_that_an_edit_ended_are_nodes_where_the_server_has_its_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, waited: str, is_ready: bool
) -> None:
    def serve(status: WorkspaceStatus) -> None:
        served_in_generation_1(status)
        claims = ConditionType.NODE_CLAIM_READY
        status.set_condition(claims, status="False", reason=waited, generation=1)
        status.set_condition(SERVED, status="True", reason="R", generation=2)

    monkeypatch.setattr(step, "current_provisioner", Maker)
    await change_status(workspace, serve)
    await step.keep_server_nodes(workspace)
    status = await current_platform().read_status(workspace)
    assert status.is_true(ConditionType.RESOURCE_READY)
    assert status.is_true(ConditionType.NODE_CLAIM_READY) is is_ready


@pytest.mark.parametrize("answers", [True, False])
async def test_while_a_newer_generation_tunes_what_serves_gets_a_node_if_it_answers_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    newer, asked = workspace.of_generation(2), list[int]()

    class Counted(Maker):
        async def ensure_nodes(
            self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
        ) -> ReadyNodes:
            asked.append(workspace.metadata.generation)
            return await super().ensure_nodes(workspace, need, on_waiting=on_waiting)

    async def restored(_workspace: Workspace) -> Workspace:
        return workspace

    def lose(status: WorkspaceStatus) -> None:
        served_in_generation_1(status)
        if not answers:
            for kind in (*CONDITIONS, SERVED):
                status.set_condition(kind, status="False", reason="R", generation=1)

    monkeypatch.setattr(step, "current_provisioner", Counted)
    monkeypatch.setattr(step, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(current_platform(), "restore_server", restored)
    await change_status(newer, lose)
    async with step.kept_nodes(newer, memory_gib=1.0, server_ends=False):
        while 2 not in asked:
            await asyncio.sleep(0.01)
    assert (1 in asked) == (not answers)
    status, said = await conditions(newer)
    assert {each for each, _ in said} == {"True"}
    assert ("b" in status.worker_nodes, status.served_generation) == (True, 1)


async def test_the_next_node_is_looked_for_as_soon_as_one_is_left_and_told_why(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[dict[str, str]] = [{"spot-1": "PreemptionScheduled"}]
    looked = asyncio.Event()

    class Told(Maker):
        async def ensure_nodes(
            self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
        ) -> ReadyNodes:
            looked.set()
            return await super().ensure_nodes(workspace, need, on_waiting=on_waiting)

    async def leave(_workspace: Workspace, *, but: Collection[str]) -> dict[str, str]:
        return signs.pop() if signs else {}

    monkeypatch.setattr(step, "current_provisioner", Told)
    monkeypatch.setattr(step, "_SIGNS_EVERY_S", 0.01)
    monkeypatch.setattr(step, "_LOOKS_ARE_FRESH_S", 0.0)
    monkeypatch.setattr(step, "_LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(current_platform(), "leave_nodes", leave)
    async with step.kept_nodes(workspace, memory_gib=1.0), asyncio.timeout(20):
        await looked.wait()
    [event] = [e for e in local_platform().store.read_events(workspace) if e.reason == "NodeLost"]
    assert event.is_warning
    assert "node spot-1 is taken away soon (PreemptionScheduled)" in event.message


async def test_an_annotation_that_is_edited_while_it_waits_for_nodes_is_heeded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = workspace.metadata.model_copy(update={"annotations": {TOLERATIONS: "team=ml"}})
    edited = workspace.model_copy(update={"metadata": metadata})

    async def as_it_is(_workspace: Workspace) -> Workspace:
        return edited

    async def listed() -> Sequence[dict[str, Any]]:
        return [node(taints=[{"key": "team", "value": "ml", "effect": "NoSchedule"}])]

    byo = ByoProvisioner(listed, nobody, timeout_s=60, look_again_s=0.01)
    monkeypatch.setattr(step, "current_provisioner", lambda: byo)
    monkeypatch.setattr(step, "_EDITS_EVERY_S", 0.01)
    monkeypatch.setattr(current_platform(), "as_it_is", as_it_is)
    found = await step.provision_node.fn(workspace)
    assert found.name == "gpu-1"


async def test_a_wait_that_is_cancelled_looks_for_nodes_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def listed() -> Sequence[dict[str, Any]]:
        nonlocal looks
        looks += 1
        return []

    byo = ByoProvisioner(listed, nobody, timeout_s=60, look_again_s=0.001)
    monkeypatch.setattr(step, "current_provisioner", lambda: byo)
    waiting = asyncio.create_task(step.provision_node.fn(workspace))
    while not looks:
        await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    before = looks
    await asyncio.sleep(0.02)
    assert looks == before
