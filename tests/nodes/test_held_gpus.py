"""Who holds GPUs is read off pods as the scheduler counts, and whose pods they are."""

from typing import Any

import pytest

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.held_gpus import GpuHolder, gpu_holders, in_the_way
from tasks.nodes.provisioner import NodeNeed
from tests.builders import tuning_manifest

OURS = {
    "app.kubernetes.io/managed-by": "kaitoflow",
    "kaito.sh/workspace": "tuned",
    "kaitoflow.io/generation": "1",
}


def container(gpus: int = 0, **content: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    return {"name": "c", **limits, **content}


def pod(
    *containers: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    node: str = "gpu-1",
    phase: str = "Running",
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    spec = {"nodeName": node, "containers": [*containers], "initContainers": [*init]}
    metadata = {"name": "p", "namespace": "team", "labels": labels or {}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def held(pod: dict[str, Any]) -> int:
    return sum(each.gpus for each in gpu_holders([pod]))


def workspace(generation: int = 1, name: str = "tuned") -> Workspace:
    manifest = tuning_manifest(name)
    manifest["metadata"] |= {"namespace": "team", "generation": generation}
    return parse_workspace(manifest, source="test")


ALWAYS = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("seen", "gpus"),
    [
        (pod(container(1), container(2)), 3),
        (pod(container(1), init=(container(2),)), 2),
        (pod(container(1), init=(container(1), container(1))), 1),
        (pod(container(1), init=(container(1, **ALWAYS),)), 2),
        (pod(container(1), init=(container(1, **ALWAYS), container(3))), 4),
        (pod(container(1), init=(container(3), container(1, **ALWAYS))), 3),
        (pod(container()), 0),
        (pod({"name": "c", "resources": {"requests": {"nvidia.com/gpu": "2"}}}), 2),
    ],
    ids=[
        "containers add up",
        "init containers run alone",
        "one after the other",
        "sidecars run beside",
        "and beside later init containers",
        "not beside earlier ones",
        "none",
        "requests",
    ],
)
def test_gpus_are_counted_as_the_scheduler_counts(seen: dict[str, Any], gpus: int) -> None:
    assert held(seen) == gpus


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_holds_nothing(phase: str) -> None:
    assert held(pod(container(1), phase=phase)) == 0


def test_a_pod_without_a_node_holds_nothing() -> None:
    assert held(pod(container(1), node="")) == 0


def test_of_a_pod_only_what_is_asked_about_it_is_kept() -> None:
    labels = OURS | {"kaitoflow.io/pod": "inference"}
    assert gpu_holders([pod(container(1), labels=labels)]) == [
        GpuHolder(
            node="gpu-1",
            namespace="team",
            pod="p",
            gpus=1,
            workspace="tuned",
            generation=1,
            is_server=True,
        )
    ]


def test_a_pod_that_only_has_the_workspace_s_label_is_not_of_our_making() -> None:
    [holder] = gpu_holders([pod(container(1), labels={"kaito.sh/workspace": "tuned"})])
    assert not holder.is_of(workspace())


@pytest.mark.parametrize(
    ("kind", "generation", "server_ends", "is_in_the_way"),
    [
        ("inference", 2, False, True),
        ("inference", 2, True, False),
        ("inference", 1, False, False),
        ("tuning", 2, False, False),
    ],
    ids=["server goes on", "server ends", "server of this generation", "older tuning has ended"],
)
def test_of_its_own_pods_only_an_older_server_that_goes_on_is_in_the_way(
    kind: str, generation: int, *, server_ends: bool, is_in_the_way: bool
) -> None:
    holders = gpu_holders([pod(container(1), labels=OURS | {"kaitoflow.io/pod": kind})])
    left = in_the_way(holders, workspace(generation), NodeNeed(server_ends=server_ends))
    assert bool(left) == is_in_the_way


@pytest.mark.parametrize(("generation", "is_in_the_way"), [(1, True), (2, False), (0, False)])
def test_beside_what_is_served_the_tuning_of_a_newer_generation_is_in_the_way(
    generation: int, is_in_the_way: bool
) -> None:
    newer = OURS | {"kaitoflow.io/generation": "2", "kaitoflow.io/pod": "tuning"}
    holders = gpu_holders([pod(container(1), labels=newer)])
    # 0 is of a file, which is to be the newest.
    assert (
        bool(in_the_way(holders, workspace(generation), NodeNeed(server_ends=True)))
        == is_in_the_way
    )


def test_pods_of_others_are_always_in_the_way() -> None:
    holders = gpu_holders([pod(container(1), labels=OURS)])
    assert in_the_way(holders, workspace(name="other"), NodeNeed()) == holders


def test_a_candidate_does_not_count_on_the_gpus_of_the_server_that_it_is_for() -> None:
    holders = gpu_holders([pod(container(1), labels=OURS | {"kaitoflow.io/pod": "inference"})])
    beside = NodeNeed(server_ends=False, is_candidate=True)
    assert in_the_way(holders, workspace(), beside) == holders
    paused = NodeNeed(server_ends=True, is_candidate=True)
    assert in_the_way(holders, workspace(), paused) == []
