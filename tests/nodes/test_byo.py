"""Nodes that are there already: those that fit are found; of the others it is said what lacks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace, KubernetesUnavailable, NodeNotReady
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.byo import ByoProvisioner
from tasks.nodes.held_gpus import GpuHolder
from tasks.nodes.need import need_of
from tasks.nodes.provisioner import NodeNeed, Waiting
from tasks.nodes.selection import Selection, select_nodes
from tests.builders import tuning_manifest

Object = dict[str, Any]
GPU_MEMORY = {"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.count": "1"}
SPOT = {
    "key": "kubernetes.azure.com/scalesetpriority",
    "value": "spot",
    "effect": "NoSchedule",
}


def node(
    name: str = "gpu-1",
    *,
    gpus: int = 1,
    ready: str = "True",
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    memory: str = "14386080Ki",
    pressure: bool = False,
    slices: Sequence[str] = (),
    **changes: Any,
) -> Object:
    """A Node as the API server gives it. Args: changes: of its spec."""
    metadata: Object = {"name": name, "uid": f"uid-{name}", "labels": {"apps": "phi-3"}}
    metadata["labels"] |= {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}
    metadata["labels"] |= labels or {}
    kubelet = {"reason": "KubeletReady", "message": "kubelet is posting ready status"}
    conditions = [
        {"type": "MemoryPressure", "status": str(pressure)},
        {"type": "DiskPressure", "status": "False"},
        {"type": "PIDPressure", "status": "False"},
        {"type": "Ready", "status": ready, **kubelet},
    ]
    amounts = {"cpu": "3920m", "memory": memory, "pods": "110"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    amounts |= dict.fromkeys(slices, "2")
    return {
        "metadata": metadata,
        "spec": {"taints": list(taints), **changes},
        "status": {"conditions": conditions, "allocatable": amounts, "capacity": amounts},
    }


def workspace(preset: str = "phi-4-mini-instruct", **resource: Any) -> Workspace:
    """A tuning Workspace whose nodes are labelled apps=phi-3."""
    manifest = tuning_manifest(preset={"name": preset})
    selector = {"labelSelector": {"matchLabels": {"apps": "phi-3"}}}
    return parse_workspace(manifest | {"resource": selector | resource}, source="test")


async def nobody() -> Sequence[GpuHolder]:
    """Holds a GPU."""
    return ()


def select(*nodes: Object, **resource: Any) -> Selection:
    """The verdict on nodes for a tuning Workspace that needs a GPU."""
    return select_nodes(need_of(workspace(**resource)), nodes)


def names(selection: Selection) -> list[str]:
    """Of the nodes that were chosen."""
    return [each.name for each in selection.nodes]


def test_a_ready_node_with_the_labels_and_a_gpu_fits() -> None:
    selection = select(node())
    assert selection.is_enough
    (found,) = selection.nodes
    assert (found.name, found.gpus, found.cores) == ("gpu-1", 1, 3)
    assert found.memory_gib == pytest.approx(13.72, abs=0.01)
    assert selection.detail == "gpu-1: 1 GPU, 3 cores, 13.7 GiB"


@pytest.mark.parametrize(
    ("unfit", "said", "fix"),
    [
        (
            node("cpu-1", labels={"apps": "web"}),
            "1 node: 1 has other labels",
            "kubectl label node cpu-1 apps=phi-3",
        ),
        (node(ready="Unknown"), "1 node: 1 is NotReady", "kubectl describe node gpu-1"),
        (node(unschedulable=True), "1 node: 1 is cordoned", "kubectl uncordon gpu-1"),
        (
            node(taints=[{"key": "team", "value": "a", "effect": "NoExecute"}]),
            "1 node: 1 has taint team=a:NoExecute",
            "kubectl taint node gpu-1 team:NoExecute-",
        ),
        (node(gpus=0), "1 node: 1 has no GPU", "a preset that runs on a CPU"),
        (
            node(gpus=0, labels={"accelerator": "nvidia"}),
            "1 node: 1 has a GPU that Kubernetes does not count",
            "install NVIDIA's device plugin",
        ),
        (
            node(gpus=0, slices=["nvidia.com/mig-3g.40gb"]),
            "has only slices of GPUs (nvidia.com/mig-3g.40gb), and pods get whole ones",
            "turn MIG off on gpu-1",
        ),
        (node() | {"metadata": node()["metadata"] | {"deletionTimestamp": "x"}}, "deleted", "add"),
    ],
)
def test_a_node_that_does_not_fit_says_what_it_lacks(unfit: Object, said: str, fix: str) -> None:
    selection = select(unfit)
    assert not selection.is_enough
    asked, found, advice = selection.message.split("; ")
    assert asked == "the Workspace asks for 1 node with 1 GPU, labelled apps=phi-3"
    assert said in found
    assert fix in advice


def test_nodes_are_counted_by_what_they_lack_and_the_nearest_gives_the_fix() -> None:
    others = [node(f"web-{number}", labels={"apps": "web"}) for number in range(2)]
    selection = select(*others, node("gpu-1", ready="False"), node("cpu-1", gpus=0))
    assert "4 nodes: 2 have other labels, 1 is NotReady, 1 has no GPU; " in selection.message
    assert selection.message.endswith("choose a preset that runs on a CPU")


def test_a_cluster_without_nodes_says_so() -> None:
    assert select().message.endswith("; the cluster has no nodes; add a node")


@pytest.mark.parametrize(
    ("preset", "gpus", "fits"),
    [
        ("smollm2-135m-instruct", 0, True),
        ("smollm2-135m-instruct", 1, True),
        ("phi-4-mini-instruct", 0, False),
        ("phi-4-mini-instruct", 1, True),
    ],
)
def test_a_preset_that_runs_on_a_cpu_needs_no_gpu(preset: str, gpus: int, fits: bool) -> None:
    need = need_of(workspace(preset))
    assert select_nodes(need, [node(gpus=gpus)]).is_enough == fits


def test_a_gpu_node_is_taken_before_a_cpu_node_and_a_small_one_before_a_large_one() -> None:
    there = [node("cpu-1", gpus=0), node("gpu-8", gpus=8), node("gpu-2"), node("gpu-1")]
    need = need_of(workspace("smollm2-135m-instruct"))
    assert names(select_nodes(need, there)) == ["gpu-1"]


@pytest.mark.parametrize(
    ("taint", "fits"),
    [
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, True),
        ({"key": "sku", "value": "gpu", "effect": "NoSchedule"}, True),
        (SPOT, True),
        ({"key": "sku", "value": "cpu", "effect": "NoSchedule"}, False),
        ({"key": "sku", "value": "gpu", "effect": "NoExecute"}, False),
        ({"key": "team", "effect": "PreferNoSchedule"}, True),
        ({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}, False),
    ],
)
def test_taints_of_gpu_nodes_are_tolerated_and_others_are_not(
    taint: Mapping[str, str], fits: bool
) -> None:
    assert select(node(taints=[taint])).is_enough == fits


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            node(
                ready="False",
                taints=[{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}],
            ),
            "NotReady",
        ),
        (
            node(
                unschedulable=True,
                taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
            ),
            "cordoned",
        ),
    ],
)
def test_a_taint_that_only_repeats_the_nodes_state_is_passed_over(state: Object, said: str) -> None:
    assert f"1 node: 1 is {said}; " in select(state).message


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "apps", "operator": "In", "values": ["phi-3", "phi-4"]}, True),
        ({"key": "apps", "operator": "In", "values": ["web"]}, False),
        ({"key": "apps", "operator": "NotIn", "values": ["web"]}, True),
        ({"key": "apps", "operator": "NotIn", "values": ["phi-3"]}, False),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, True),
        ({"key": "apps", "operator": "Exists"}, True),
        ({"key": "zone", "operator": "Exists"}, False),
        ({"key": "zone", "operator": "DoesNotExist"}, True),
        ({"key": "apps", "operator": "DoesNotExist"}, False),
    ],
)
def test_match_expressions_are_read_as_the_scheduler_reads_them(
    expression: Object, fits: bool
) -> None:
    assert select_nodes(NodeNeed(expressions=(expression,)), [node()]).is_enough == fits


def test_what_is_asked_for_and_how_to_label_a_node_are_written_as_kubectl_takes_them() -> None:
    expressions = (
        {"key": "zone", "operator": "In", "values": ["a", "b"]},
        {"key": "fast", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    )
    need = NodeNeed(labels={"apps": "x"}, expressions=expressions)
    message = select_nodes(need, [node()]).message
    assert "labelled apps=x,zone in (a, b),fast,!old; " in message
    assert message.endswith("(kubectl label node gpu-1 apps=x zone=a fast=true old-)")


def test_an_operator_that_does_not_exist_is_refused() -> None:
    wrong = NodeNeed(expressions=({"key": "apps", "operator": "Like", "values": ["x"]},))
    with pytest.raises(InvalidWorkspace, match="operator 'Like'; .*use In, NotIn, Exists"):
        select_nodes(wrong, [node()])


def test_labels_that_kaito_keeps_for_itself_select_nothing() -> None:
    labels = {"apps": "phi-3", "kaito.sh/workspace": "tuned"}
    assert select(node(), labelSelector={"matchLabels": labels}).is_enough


def test_a_match_expression_of_a_workspace_selects() -> None:
    expressions = [{"key": "apps", "operator": "In", "values": ["web"]}]
    assert not select(node(), labelSelector={"matchExpressions": expressions}).is_enough


def test_another_instance_type_is_a_warning_since_the_nodes_labels_decide() -> None:
    selection = select(node(), instanceType="Standard_NC6s_v3")
    assert selection.is_enough
    assert (
        "; warning: gpu-1 is of instance type Standard_NC24ads_A100_v4, not Standard_NC6s_v3: "
    ) in selection.detail


def test_the_instance_type_that_was_asked_for_is_no_warning() -> None:
    assert "warning" not in select(node(), instanceType="Standard_NC24ads_A100_v4").detail


def test_a_node_under_pressure_is_a_warning() -> None:
    selection = select(node(pressure=True))
    assert selection.is_enough
    assert selection.detail.endswith("; warning: gpu-1 is under MemoryPressure")


OF_UNKNOWN_TYPE = {"node.kubernetes.io/instance-type": "own-iron"}


@pytest.mark.parametrize(
    ("state", "memory_gib", "fits"),
    [
        (node(gpus=0, memory="4Gi"), 2.0, True),
        (node(gpus=0, memory="4Gi"), 6.0, False),
        (node(labels=GPU_MEMORY), 70.0, True),
        (node(labels=GPU_MEMORY), 90.0, False),
        (node(gpus=2, labels=GPU_MEMORY), 90.0, True),
        (node(labels=OF_UNKNOWN_TYPE), 90.0, True),
        (node(), 90.0, False),
        (node(), 70.0, True),
    ],
    ids=[
        *("cpu fits", "cpu too small", "gpu fits", "gpu too small", "two gpus", "gpu unknown"),
        *("too small for its type", "fits its type"),
    ],
)
def test_what_the_model_needs_has_to_fit_where_it_is_known(
    state: Object, memory_gib: float, fits: bool
) -> None:
    selection = select_nodes(NodeNeed(gpus=0, memory_gib=memory_gib), [state])
    assert selection.is_enough == fits
    assert f"asks for 1 node with {memory_gib} GiB of memory" in selection.message


@pytest.mark.parametrize(("count", "fits"), [(1, True), (2, True), (3, False)])
def test_as_many_nodes_as_are_asked_for_have_to_fit(count: int, fits: bool) -> None:
    selection = select_nodes(NodeNeed(nodes=count), [node("gpu-2"), node("gpu-1")])
    assert selection.is_enough == fits
    assert names(selection) == ["gpu-1", "gpu-2"][:count]


def test_nodes_that_fit_but_are_too_few_are_counted_too() -> None:
    selection = select_nodes(NodeNeed(nodes=3), [node("gpu-1"), node("gpu-2"), node(gpus=0)])
    assert "3 nodes: 2 fit, 1 has no GPU; " in selection.message


def holder(gpus: int = 1, node: str = "gpu-1", pod: str = "other-0") -> GpuHolder:
    return GpuHolder(node=node, namespace="team", pod=pod, gpus=gpus)


def test_a_node_whose_gpus_are_in_use_does_not_fit_and_says_who_uses_them() -> None:
    selection = select_nodes(need_of(workspace()), [node()], [holder()])
    assert not selection.is_enough
    assert "1 node: 1 has its GPUs in use; " in selection.message
    assert selection.message.endswith("(in use by team/other-0), or add a node")
    assert selection.in_use == {"gpu-1"}


def test_a_pod_gets_the_gpus_that_are_free_and_no_more() -> None:
    selection = select_nodes(need_of(workspace()), [node("gpu-4", gpus=4)], [holder(3, "gpu-4")])
    assert [each.gpus for each in selection.nodes] == [1]
    assert selection.detail.startswith("gpu-4: 1 of 4 GPUs free, ")


def test_the_memory_of_gpus_that_are_in_use_is_not_counted() -> None:
    there = [node(gpus=2, labels=GPU_MEMORY)]
    need = NodeNeed(memory_gib=90.0)
    assert select_nodes(need, there).is_enough
    assert "in use" in select_nodes(need, there, [holder()]).message


def test_a_free_node_is_taken_beside_one_in_use() -> None:
    there = [node("gpu-1"), node("gpu-2")]
    assert names(select_nodes(need_of(workspace()), there, [holder()])) == ["gpu-2"]


def test_what_needs_no_gpu_runs_beside_a_gpu_in_use() -> None:
    need = NodeNeed(gpus=0, memory_gib=2.0)
    selection = select_nodes(need, [node(labels=GPU_MEMORY)], [holder()])
    assert [each.gpus for each in selection.nodes] == [0]


async def test_a_node_is_waited_for_until_its_gpu_is_free() -> None:
    states = [[holder()], [holder()], []]

    async def listed() -> Sequence[Object]:
        return [node()]

    async def holding() -> Sequence[GpuHolder]:
        return states.pop(0)

    told: list[str] = []

    async def tell(waiting: Waiting) -> None:
        told.append(waiting.message)

    byo = ByoProvisioner(listed, holding, timeout_s=60, look_again_s=0)
    ready = await byo.ensure_nodes(workspace(), need_of(workspace()), on_waiting=tell)
    assert [each.gpus for each in ready.nodes] == [1]
    assert len(told) == 1
    assert "has its GPUs in use" in told[0]


async def test_waiting_ends_as_soon_as_a_node_is_ready() -> None:
    states = [[], [node(ready="False")], [node(ready="False")], [node()]]
    told: list[tuple[str, str]] = []

    async def listed() -> Sequence[Object]:
        return states.pop(0)

    async def tell(waiting: Waiting) -> None:
        told.append((waiting.reason, waiting.message.split("; ")[1]))

    byo = ByoProvisioner(listed, nobody, timeout_s=60, look_again_s=0)
    ready = await byo.ensure_nodes(workspace(), need_of(workspace()), on_waiting=tell)
    assert [each.name for each in ready.nodes] == ["gpu-1"]
    assert told == [
        ("NodeNotReady", "the cluster has no nodes"),
        ("NodeNotReady", "1 node: 1 is NotReady"),
    ]


async def test_a_wait_that_takes_too_long_fails_with_what_nodes_lack() -> None:
    async def listed() -> Sequence[Object]:
        return [node(gpus=0, labels={"accelerator": "nvidia"})]

    reasons: list[str] = []

    async def tell(waiting: Waiting) -> None:
        reasons.append(waiting.reason)

    byo = ByoProvisioner(listed, nobody, timeout_s=0.05, look_again_s=0.01)
    with pytest.raises(NodeNotReady, match="has a GPU that Kubernetes does not count; install"):
        await byo.ensure_nodes(workspace(), need_of(workspace()), on_waiting=tell)
    assert reasons == ["NodePluginsNotReady"]


async def test_an_api_server_that_does_not_answer_for_a_while_is_waited_for() -> None:
    answers: list[Sequence[Object] | Exception] = [
        KubernetesUnavailable("a", "no answer", "c"),
        [node()],
    ]

    async def listed() -> Sequence[Object]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    told: list[str] = []

    async def tell(waiting: Waiting) -> None:
        told.append(waiting.message)

    byo = ByoProvisioner(listed, nobody, timeout_s=60, look_again_s=0)
    ready = await byo.ensure_nodes(workspace(), need_of(workspace()), on_waiting=tell)
    assert (len(ready.nodes), told) == (1, ["a; no answer; c"])


async def test_of_nodes_that_fit_the_one_of_its_own_server_is_taken_first() -> None:
    asked = workspace()
    mine = replace(holder(node="gpu-9"), namespace="default", workspace=asked.metadata.name)

    async def listed() -> Sequence[Object]:
        return [node("gpu-1", gpus=2), node("gpu-9", gpus=2)]

    async def holding() -> Sequence[GpuHolder]:
        return [mine]

    async def tell(_waiting: Waiting) -> None:
        pytest.fail("it waited")

    byo = ByoProvisioner(listed, holding, timeout_s=60)
    for server_ends in (True, False):
        need = need_of(asked, server_ends=server_ends)
        ready = await byo.ensure_nodes(asked, need, on_waiting=tell)
        assert [each.name for each in ready.nodes] == ["gpu-9"]


async def test_in_a_queue_it_is_the_queue_that_says_whose_gpus_make_way() -> None:
    asked = workspace()
    asked.metadata.labels["kueue.x-k8s.io/queue-name"] = "team"

    async def listed() -> Sequence[Object]:
        return [node()]

    async def holding() -> Sequence[GpuHolder]:
        return [holder()]

    async def tell(_waiting: Waiting) -> None:
        pytest.fail("it waited")

    byo = ByoProvisioner(listed, holding, timeout_s=60)
    ready = await byo.ensure_nodes(asked, need_of(asked), on_waiting=tell)
    assert [each.name for each in ready.nodes] == ["gpu-1"]


async def test_who_brought_the_nodes_keeps_them() -> None:
    async def listed() -> Sequence[Object]:
        return [node()]

    byo = ByoProvisioner(listed, nobody, timeout_s=60)
    assert not byo.makes_nodes
    assert await byo.release(workspace()) == ()
