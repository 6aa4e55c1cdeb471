"""What a cluster would refuse stops a run: for good, or before a node is paid for."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.steps import INFERENCE, TUNING
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import acceptance, make_plan
from tasks.plan.findings import Findings
from tasks.plan.rehearsal import cluster_rules, rehearse
from tasks.platform.base import Address, Pod, World
from tasks.platform.diagnosis import Diagnosis
from tests.builders import tuning_manifest, tuning_workspace

FULL = Diagnosis(
    reason="QuotaExceeded", asked="asked", found="found", fix="raise it", is_final=False
)
FORBIDDEN = replace(FULL, reason="PodForbidden", is_final=True)
UNCLEAR = replace(FULL, reason="PodForbidden")
CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)


@pytest.mark.parametrize(
    ("told", "makes_nodes", "result"),
    [
        (FORBIDDEN, False, "fail"),
        (FULL, True, "fail"),
        (FULL, False, "warn"),
        (UNCLEAR, True, "warn"),
    ],
)
def test_a_pod_that_may_get_room_may_wait_where_no_node_is_paid_for(
    told: Diagnosis, makes_nodes: bool, result: str
) -> None:
    [check] = cluster_rules({INFERENCE: [told]}, is_tuned=False, makes_nodes=makes_nodes)
    assert (check.result, check.reason) == (result, told.reason)
    assert (check.detail, check.fix) == ("asked; found", "raise it")


def test_what_is_said_of_both_pods_is_told_once() -> None:
    both = {TUNING: [FORBIDDEN], INFERENCE: [FORBIDDEN]}
    assert len(cluster_rules(both, is_tuned=False, makes_nodes=False)) == 1


def test_a_tuning_pod_that_is_not_made_again_is_refused_by_nobody() -> None:
    found = {TUNING: [FORBIDDEN], INFERENCE: []}
    [check] = cluster_rules(found, is_tuned=True, makes_nodes=True)
    assert check.result == "ok"


def test_a_plan_refuses_what_the_cluster_would() -> None:
    plan = make_plan(tuning_workspace(), CLUSTER, Findings(rehearsal={TUNING: [FORBIDDEN]}))
    assert [check.reason for check in plan.refused] == ["PodForbidden"]


def test_room_that_is_waited_for_is_told_with_the_acceptance() -> None:
    plan = make_plan(tuning_workspace(), CLUSTER, Findings(rehearsal={TUNING: [FULL]}))
    assert plan.refused == []
    assert "cluster rules: asked; found; raise it" in acceptance(plan)


class Rehearsing:
    """A platform that refuses nothing, and keeps which pods it was asked about."""

    def __init__(self) -> None:
        self.pods: list[Pod] = []

    async def server_address(self, *_: object, **__: object) -> Address:
        return Address(host="s", port=80, url="http://s")

    async def rehearse(self, _: object, pod: Pod) -> list[Diagnosis]:
        self.pods.append(pod)
        return []


async def pods_of(workspace: Workspace) -> list[Pod]:
    platform: Any = Rehearsing()
    asked = await rehearse(workspace, platform)
    assert asked == {pod.name: [] for pod in platform.pods}
    return list(platform.pods)


async def rehearsed(workspace: Workspace) -> list[str]:
    return [pod.name for pod in await pods_of(workspace)]


async def test_each_pod_that_would_be_made_is_tried() -> None:
    assert await rehearsed(tuning_workspace()) == [TUNING, INFERENCE]
    served = {"metadata": {"name": "s"}, "inference": {"preset": {"name": "phi-4"}}}
    assert await rehearsed(parse_workspace(served, source="test")) == [INFERENCE]


async def test_a_workspace_that_is_at_fault_itself_is_for_other_checks() -> None:
    assert await rehearsed(tuning_workspace(preset={"name": "no-such-model"})) == []


async def test_pods_of_an_annotation_without_a_meaning_are_not_tried() -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/no-such-word": "1"}
    assert await rehearsed(parse_workspace(manifest, source="test")) == []


async def test_pods_are_tried_with_the_gpus_and_the_image_that_they_will_have() -> None:
    tuning, inference = await pods_of(tuning_workspace(preset={"name": "phi-4-mini-instruct"}))
    assert (tuning.gpus, inference.gpus) == (1, 1)
    assert tuning.container("push-image").config.push
    pulled = inference.container("pull-tuned").config.reference
    assert pulled == f"registry.example.com/adapters/tuned:1@sha256:{'0' * 64}"


async def test_an_adapter_that_goes_into_a_volume_is_served_from_there() -> None:
    volume: dict[str, Any] = {"emptyDir": {}}
    _, inference = await pods_of(tuning_workspace(output={"volumeSource": volume}))
    assert [each.name for each in inference.containers] == ["fetch-weights", "serve"]
    assert [*inference.volumes.values()] == [volume]
