"""A served Workspace is tuned again without waiting for its own server, and the plan says how."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Check, Plan, Swap
from tasks.contract.workspace import TuneWhileServing, parse_workspace
from tasks.nodes.held_gpus import GpuHolder
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.plan.swap import choose
from tasks.platform.base import World
from tests.builders import tuning_manifest
from tests.nodes.test_byo import node

SERVED = World(
    config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True, served_generation=1
)
# wish, is_free, would_be_free, makes_nodes: what becomes of the server.
CHOICES: dict[tuple[TuneWhileServing, bool, bool, bool], Swap | None] = {
    ("beside", True, True, False): Swap.BESIDE,
    ("auto", True, True, True): Swap.BESIDE,
    ("pause", True, True, True): Swap.BESIDE,
    ("beside", False, True, True): Swap.SECOND_NODE,
    ("auto", False, True, True): Swap.SECOND_NODE_OR_PAUSE,
    ("pause", False, True, True): Swap.PAUSE,
    ("beside", False, True, False): None,
    ("auto", False, True, False): Swap.PAUSE,
    ("pause", False, True, False): Swap.PAUSE,
    ("beside", False, False, True): Swap.SECOND_NODE,
    ("auto", False, False, True): Swap.SECOND_NODE,
    ("pause", False, False, True): Swap.SECOND_NODE,
    ("beside", False, False, False): Swap.BESIDE,
    ("auto", False, False, False): Swap.BESIDE,
    ("pause", False, False, False): Swap.BESIDE,
}


@pytest.mark.parametrize("situation", CHOICES, ids=str)
def test_what_becomes_of_the_server_follows_from_what_is_free_and_may_be(
    situation: tuple[TuneWhileServing, bool, bool, bool],
) -> None:
    wish, is_free, would_be_free, makes_nodes = situation
    chosen = choose(wish, is_free=is_free, would_be_free=would_be_free, makes_nodes=makes_nodes)
    assert chosen is CHOICES[situation]


def holder(gpus: int = 1, *, generation: int = 1, **changes: Any) -> GpuHolder:
    """The server of the Workspace's generation, on the only node."""
    mine: dict[str, Any] = {"namespace": "default", "pod": "tuned-0", "workspace": "tuned"}
    mine |= {"generation": generation, "is_server": True} | changes
    return GpuHolder(node="gpu-1", gpus=gpus, **mine)


def planned(
    *holders: GpuHolder,
    wish: str = "",
    provisioner: str = "byo",
    gpus: int = 1,
    world: World = SERVED,
    generation: int = 2,
    uid: str = "1",
    is_candidate: bool = False,
) -> Plan:
    manifest = tuning_manifest(preset={"name": "phi-4-mini-instruct"})
    manifest["metadata"] |= {"generation": generation, "uid": uid}
    manifest["metadata"]["annotations"] = {"kaitoflow.io/tune-while-serving": wish} if wish else {}
    found = Findings(
        nodes=[node(gpus=gpus, memory="200Gi")], gpu_holders=holders, provisioner=provisioner
    )
    workspace = parse_workspace(manifest, source="test")
    return make_plan(workspace, world, found, is_candidate=is_candidate)


def line(plan: Plan) -> Check:
    return next(check for check in plan.checks if check.name == "swap")


def test_on_its_one_gpu_it_is_refused_with_the_annotation_that_helps() -> None:
    plan = planned(holder())
    assert [check.reason for check in plan.refused] == ["NoRoomToTune"]
    refused = line(plan)
    assert "generation 2 is to be tuned while generation 1 serves" in refused.detail
    assert 'annotate kaitoflow.io/tune-while-serving: "pause"' in refused.fix


@pytest.mark.parametrize("wish", ["auto", "pause"])
def test_on_its_one_gpu_the_server_pauses_where_it_may(wish: str) -> None:
    plan = planned(holder(), wish=wish)
    assert (plan.swap, plan.server_ends, plan.refused) == (Swap.PAUSE, True, [])
    assert "comes back with the new adapter, or with the old one" in line(plan).detail


def test_a_free_gpu_is_taken_before_the_server_pauses() -> None:
    plan = planned(holder(), gpus=2, wish="pause")
    assert (plan.swap, plan.server_ends) == (Swap.BESIDE, False)


def test_where_nodes_are_made_a_second_one_is() -> None:
    plan = planned(holder(), provisioner="aks")
    assert (plan.swap, plan.server_ends) == (Swap.SECOND_NODE, False)
    assert "given back afterwards" in line(plan).detail


def test_gpus_that_others_hold_are_waited_for_as_ever() -> None:
    plan = planned(holder(workspace="other"), wish="auto")
    assert plan.swap is Swap.BESIDE


def test_a_server_that_answers_nobody_makes_room_unasked() -> None:
    plan = planned(holder(), world=replace(SERVED, served_generation=None))
    assert plan.swap is Swap.PAUSE


def test_a_server_whose_own_image_has_to_be_made_again_makes_room_for_it() -> None:
    assert planned(holder(generation=2)).swap is Swap.PAUSE


CANDIDATES: dict[tuple[str, int, str], Swap | None] = {
    ("", 2, "byo"): Swap.BESIDE,
    ("", 1, "byo"): None,
    ("pause", 1, "byo"): Swap.PAUSE,
    ("", 1, "aks"): Swap.SECOND_NODE,
    ("auto", 1, "aks"): Swap.SECOND_NODE_OR_PAUSE,
}


@pytest.mark.parametrize("situation", CANDIDATES, ids=str)
def test_a_candidate_is_tuned_by_the_rules_of_an_edit_beside_its_own_generation_s_server(
    situation: tuple[str, int, str],
) -> None:
    wish, gpus, provisioner = situation
    plan = planned(
        holder(), wish=wish, gpus=gpus, provisioner=provisioner, generation=1, is_candidate=True
    )
    assert plan.swap is CANDIDATES[situation]
    assert [check.reason for check in plan.refused] == (["NoRoomToTune"] if not plan.swap else [])
    assert "a candidate for it is" in line(plan).detail


def test_a_file_of_one_that_is_served_is_told_the_same_before_it_is_applied() -> None:
    plan = planned(holder(), uid="", generation=1)
    assert [check.reason for check in plan.refused] == ["NoRoomToTune"]
    assert "its next generation is to be tuned while generation 1 serves" in line(plan).detail


def test_without_a_server_there_is_nothing_to_tell() -> None:
    plan = planned(world=replace(SERVED, served_generation=None))
    assert plan.swap is None
    assert "swap" not in {check.name for check in plan.checks}
