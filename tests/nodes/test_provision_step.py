"""The step tells in the Workspace's conditions what it waits for, and what it got."""

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
from tasks.settings import settings
from tasks.steps import change_status
from tests.builders import tuning_workspace
from tests.contract.test_held_cost import machine
from tests.nodes.test_byo import node

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

    byo = ByoProvisioner(listed, timeout_s=60, look_again_s=0)
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

    byo = ByoProvisioner(listed, timeout_s=0.05, look_again_s=0.01)
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
        self.held: list[list[str]] = []
        self.kept: Collection[str] = ()

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        for machines in ((machine("a"),), None, ()):
            await on_waiting(Waiting(reason="R", message="m", machines=machines))
            self.held.append(await held(workspace))
        node = Node(name="b", cores=1, memory_gib=1)
        made = machine("b", instance_type="Standard_NC6s_v3")
        return ReadyNodes(nodes=(node,), detail="d", are_claimed=True, machines=(made,))

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
    assert maker.held == [["a"], ["a"], []]
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
    await step.give_back_unused_nodes(workspace)
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
    await step.provision_node.fn(workspace)
    status = await current_platform().read_status(workspace)
    assert status.worker_nodes == ["b", "gpu"]
