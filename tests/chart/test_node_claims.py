"""A cluster without Karpenter learns from the chart what a NodeClaim is, where AKS makes nodes."""

import json
from collections.abc import Iterator

import pytest
import yaml

from tasks.nodes.claims.node_claim import AGENT_POOL_FINALIZER, node_claim
from tasks.nodes.offers import Offer
from tasks.platform.wire import Object
from tests.builders import tuning_workspace
from tests.chart.rendering import VARIANTS, find, render_text
from tests.cluster.control_plane import ControlPlane, running_control_plane

AKS = VARIANTS["aks"]
NAME = "nodeclaims.karpenter.sh"


def definitions(text: str) -> list[Object]:
    found = [each for each in yaml.safe_load_all(text) if each]
    return [each for each in found if each["metadata"]["name"] == NAME]


@pytest.fixture(scope="module")
def without_karpenter(
    control_plane: ControlPlane,  # builds the programs, or skips
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    """An API server of its own, with the chart's definition of NodeClaims."""
    with running_control_plane(tmp_path_factory.mktemp("without-karpenter")) as own:
        (definition,) = definitions(render_text(AKS, knows_claims=False))
        own.define(NAME, json.dumps(definition))
        yield own


def test_a_definition_that_is_there_is_left_alone() -> None:
    assert definitions(render_text(AKS, knows_claims=True)) == []


def test_only_who_makes_agent_pools_brings_one() -> None:
    assert definitions(render_text(VARIANTS["karpenter"], knows_claims=False)) == []


def test_it_outlives_the_chart_since_claims_are_machines_that_cost_money() -> None:
    (definition,) = definitions(render_text(AKS, knows_claims=False))
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.cluster
def test_a_claim_is_kept_as_it_was_written(without_karpenter: ControlPlane) -> None:
    offer = Offer(instance_type="Standard_NC4as_T4_v3", capacity_type="spot", zones=("1",))
    finalizers = (AGENT_POOL_FINALIZER,)
    claim = node_claim(tuning_workspace(), offer, slot=0, disk_gib=100, finalizers=finalizers)
    without_karpenter.kubectl("create", "--filename=-", stdin=json.dumps(claim))
    name = claim["metadata"]["name"]
    kept = json.loads(without_karpenter.kubectl("get", "nodeclaim", name, "--output=json"))
    assert kept["spec"] == claim["spec"]
    row = without_karpenter.kubectl("get", "nodeclaim", name, "--no-headers").split()
    assert row[:3] == [name, "Standard_NC4as_T4_v3", "spot"]
    with pytest.raises(RuntimeError, match="a claim is not changed once it is written"):
        without_karpenter.kubectl(
            *("patch", "nodeclaim", name, "--type=merge"), '--patch={"spec": {"taints": []}}'
        )


AKS_CLASS = "karpenter.azure.com/v1beta1/AKSNodeClass"


@pytest.mark.parametrize(
    ("named", "knows", "told"),
    [
        ("", (), ""),
        ("", (AKS_CLASS,), "karpenter.azure.com/AKSNodeClass/default"),
        (
            "karpenter.azure.com/AKSNodeClass/gpu",
            (AKS_CLASS,),
            "karpenter.azure.com/AKSNodeClass/gpu",
        ),
    ],
    ids=["kaito", "found", "named"],
)
def test_claims_are_for_the_node_class_that_is_named_or_that_the_cluster_has(
    named: str, knows: tuple[str, ...], told: str
) -> None:
    nodes = {"provisioner": "karpenter", "karpenter": {"nodeClass": named}}
    made = [each for each in yaml.safe_load_all(render_text({"nodes": nodes}, knows=knows)) if each]
    worker = find(made, "StatefulSet", "worker")
    [container] = worker["spec"]["template"]["spec"]["containers"]
    found = {each["name"]: each.get("value") for each in container["env"]}
    assert found["KAITOFLOW_NODE_CLASS"] == told
