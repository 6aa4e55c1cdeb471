"""What a Workspace asks of a node follows from its preset, its template and the plan."""

from typing import Any

import pytest

from tasks.contract.artifacts import Node
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.need import gpus_needed, need_of
from tasks.nodes.provisioner import Machine, NodeNeed, ReadyNodes, Waiting
from tasks.presets import find_preset
from tests.builders import tuning_manifest, tuning_workspace


def inference(preset: str | None = None, *, annotations: Any = None, **content: Any) -> Workspace:
    """An inference Workspace of a preset, or of a template in `content`."""
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "served", "annotations": annotations or {}},
        "resource": {"count": content.pop("count", 1)},
        "inference": {"preset": {"name": preset}} if preset else content,
    }
    return parse_workspace(manifest, source="test")


def test_tuning_needs_what_the_plan_has_estimated() -> None:
    need = need_of(tuning_workspace(), memory_gib=3.5)
    assert (need.nodes, need.gpus, need.memory_gib) == (1, 0, 3.5)


def test_without_a_plan_a_servers_weights_have_to_fit() -> None:
    need = need_of(inference("phi-4"))
    assert need.gpus == 1
    assert need.memory_gib == pytest.approx(27.31 * 1.02 + 1.1)


def test_the_bypass_annotation_leaves_memory_unchecked() -> None:
    annotations = {"kaito.sh/bypass-resource-checks": ""}
    assert need_of(inference("phi-4", annotations=annotations), memory_gib=99).memory_gib is None


def test_a_model_of_unknown_size_needs_a_gpu_and_no_known_memory() -> None:
    need = need_of(inference("someone/some-model"))
    assert (need.gpus, need.memory_gib) == (1, None)


def test_as_many_nodes_are_needed_as_the_workspace_counts() -> None:
    assert need_of(inference("phi-4", count=2)).nodes == 2


def test_a_pod_template_says_itself_what_it_needs() -> None:
    container = {"name": "own", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
    toleration = {"key": "team", "operator": "Exists"}
    spec = {"containers": [container], "nodeSelector": {"zone": "a"}, "tolerations": [toleration]}
    need = need_of(inference(template={"spec": spec}))
    assert (need.gpus, need.labels, need.tolerations) == (2, {"zone": "a"}, (toleration,))


def test_tolerations_that_are_asked_for_count_when_nodes_are_chosen() -> None:
    asked = {"kaitoflow.io/tolerations": "team=ml"}
    need = need_of(inference("phi-4", annotations=asked))
    assert need.tolerations == ({"key": "team", "operator": "Equal", "value": "ml"},)


def test_a_pod_template_without_a_gpu_needs_none() -> None:
    assert need_of(inference(template={"spec": {"containers": [{"name": "own"}]}})).gpus == 0


def test_an_instance_type_is_kept_for_who_makes_or_compares_nodes() -> None:
    manifest = tuning_manifest() | {"resource": {"instanceType": "Standard_NC6s_v3"}}
    need = need_of(parse_workspace(manifest, source="test"))
    assert need.instance_type == "Standard_NC6s_v3"


def test_a_server_goes_on_while_its_workspace_is_tuned_again_and_ends_before_the_next_server() -> (
    None
):
    assert not need_of(tuning_workspace(), server_ends=False).server_ends
    assert need_of(inference("phi-4")).server_ends


def test_a_node_that_is_made_has_disk_for_the_weights() -> None:
    small, large = (
        need_of(inference("phi-4-mini-instruct")),
        need_of(inference("llama-3.3-70b-instruct")),
    )
    assert small.disk_gib == 100
    assert large.disk_gib > 30 + (find_preset("llama-3.3-70b-instruct").size_gib or 0)


def test_all_containers_of_a_pod_template_need_their_gpus_together() -> None:
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    containers = [{"name": "a", "resources": limits}, {"name": "b", "resources": limits}]
    need = need_of(inference(template={"spec": {"containers": [*containers, {"name": "c"}]}}))
    assert (need.gpus, need.memory_gib) == (2, None)


def test_an_empty_pod_template_needs_nothing() -> None:
    need = need_of(inference(template={"spec": {}}))
    assert (need.gpus, need.labels, need.tolerations) == (0, {}, ())


def test_a_plan_s_estimate_goes_before_the_size_of_the_weights() -> None:
    assert need_of(inference("phi-4"), memory_gib=99.0).memory_gib == 99.0
    assert need_of(tuning_workspace()).memory_gib is None


@pytest.mark.parametrize(
    ("workspace", "gpus"),
    [
        (inference("phi-4"), 1),
        (inference("smollm2-135m-instruct"), 0),
        (inference(template={"spec": {"containers": [{"name": "own"}]}}), 0),
    ],
)
def test_how_many_gpus_a_node_has_to_have_is_known_before_the_plan(
    workspace: Workspace, gpus: int
) -> None:
    assert gpus_needed(workspace) == gpus


def test_a_need_that_says_nothing_is_one_node_with_a_gpu_on_which_nothing_else_serves() -> None:
    told = {name: value for name, value in vars(NodeNeed()).items() if value}
    assert told == {"nodes": 1, "gpus": 1, "disk_gib": 100, "server_ends": True}


def test_what_a_provisioner_does_not_say_is_not_known_and_is_paid_for_by_nobody() -> None:
    waiting = Waiting(reason="r", message="m")
    assert (waiting.are_claims_ready, waiting.machines, waiting.is_in_vain) == (None, None, False)
    ready = ReadyNodes(nodes=(), detail="")
    assert (ready.are_claimed, ready.machines) == (False, ())
    machine = Machine(name="m", claim="c", instance_type="t", capacity_type="spot", state="s")
    assert (machine.workspace, machine.is_leaving, machine.created) == ("", False, None)


def test_pods_on_several_nodes_get_the_gpus_that_each_of_them_has() -> None:
    four, two = (Node(name=f"n{n}", cores=1, memory_gib=1, gpus=n) for n in (4, 2))
    assert ReadyNodes(nodes=(four, two), detail="").as_one == four.model_copy(update={"gpus": 2})
