"""What an API server would refuse of a Workspace's pods is told before anything is made."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.resources import Amount, Resources
from tasks.contract.steps import INFERENCE, TUNING
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.diagnosis import Diagnosis
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.manifests.labels import workspace_labels
from tasks.platform.namespace_rules import fitted
from tests.cluster.control_plane import ControlPlane
from tests.platform.test_ownership_on_a_cluster import platform, reachable, toy, workspace

__all__ = ["platform", "reachable", "workspace"]  # fixtures

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
GIVEN = Resources(cpu_cores=Amount(0.5), memory_gib=Amount(2, 8), disk_gib=Amount(4, 100))
TUNES = Pod(name=TUNING, containers=(toy("fetch"), toy("tune")), resources=GIVEN)
SERVES = Pod(name=INFERENCE, containers=(toy("fetch"), toy("serve")), resources=GIVEN)


def brought(**container: Any) -> Pod:
    """A pod of the user's own."""
    own = {"name": "own", "image": "example.test/own", **container}
    return Pod(name=INFERENCE, containers=(), template={"spec": {"containers": [own]}})


class Namespace:
    """The Workspace's namespace and what rules it."""

    def __init__(self, kubernetes: ControlPlane, name: str) -> None:
        self.kubernetes, self.name = kubernetes, name

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.kubernetes.kubectl(*arguments, f"--namespace={self.name}", stdin=stdin)

    def restrict(self) -> None:
        label = "pod-security.kubernetes.io/enforce=restricted"
        self.kubernetes.kubectl("label", "namespace", self.name, label)

    def rule(self, kind: str, spec: Object) -> None:
        """Create a ResourceQuota or LimitRange."""
        made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "team"}, "spec": spec}
        self.kubectl("create", "--filename=-", stdin=json.dumps(made))
        if kind == "ResourceQuota":
            # A quota without a status lets nothing in until its controller has counted.
            path = "--for=jsonpath={.status.hard}"
            self.kubectl("wait", path, "resourcequota/team", "--timeout=60s")

    def objects(self) -> list[str]:
        """All that was made there, by kind and name."""
        kinds = "jobs,statefulsets,services,pods"
        return self.kubectl("get", kinds, "--output=name").split()


@pytest.fixture
def ruled(control_plane: ControlPlane, namespace: str) -> Namespace:
    return Namespace(control_plane, namespace)


def reasons(told: list[Diagnosis]) -> set[tuple[str, bool]]:
    return {(each.reason, each.is_final) for each in told}


async def rehearse(platform: KubernetesPlatform, workspace: Workspace, pod: Pod) -> list[Diagnosis]:
    """What is said to the pod as it is made in this namespace."""
    rules = await platform.namespace_rules(workspace)
    if pod.resources:
        pod = replace(pod, resources=fitted(pod.resources, rules))
    return await platform.rehearse(workspace, pod)


async def test_a_restricted_namespace_takes_our_pods_and_a_dry_run_makes_nothing(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    ruled.restrict()
    for pod in (TUNES, SERVES):
        assert await rehearse(platform, workspace, pod) == []
    assert ruled.objects() == []


async def test_a_pod_template_that_a_restricted_namespace_forbids_is_told_with_the_fields(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    assert await rehearse(platform, workspace, brought()) == []
    ruled.restrict()
    told = await rehearse(platform, workspace, brought())
    assert reasons(told) == {("PodForbidden", True)}
    assert "runAsNonRoot" in told[0].found
    assert "pod template" in told[0].fix


async def test_a_misspelt_field_of_a_pod_template_is_told(
    platform: KubernetesPlatform, workspace: Workspace
) -> None:
    told = await rehearse(platform, workspace, brought(imgae="example.test/typo"))
    assert reasons(told) == {("PodForbidden", True)}
    assert any("imgae" in each.found for each in told)
    assert all("correct the field's name" in each.fix for each in told)


async def test_a_priority_class_that_is_not_there_is_told(
    platform: KubernetesPlatform, workspace: Workspace
) -> None:
    asked = {"kaitoflow.io/priority-class": "nothing-like-it"}
    metadata = workspace.metadata.model_copy(update={"annotations": asked})
    told = await rehearse(platform, workspace.model_copy(update={"metadata": metadata}), TUNES)
    assert reasons(told) == {("PodForbidden", True)}


@pytest.mark.parametrize("counted", ["limits.cpu", "limits.memory", "limits.ephemeral-storage"])
async def test_a_namespace_whose_quota_counts_limits_takes_our_pods(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace, counted: str
) -> None:
    ruled.rule("ResourceQuota", {"hard": {counted: "9Gi" if "cpu" not in counted else "2"}})
    for pod in (TUNES, SERVES):
        assert await rehearse(platform, workspace, pod) == []


async def test_a_pod_larger_than_the_quota_is_told_once_with_the_quotas_name(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    ruled.rule("ResourceQuota", {"hard": {"requests.memory": "1Gi"}})
    [told] = await rehearse(platform, workspace, TUNES)
    assert (told.reason, told.is_final) == ("QuotaExceeded", True)
    assert "ResourceQuota team has 1Gi left of 1Gi" in told.found


async def test_a_pod_that_takes_the_place_of_the_workspaces_own_needs_no_more_room(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    ruled.rule("ResourceQuota", {"hard": {"pods": "1"}})
    serving = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "labels": workspace_labels(workspace) | {"kaitoflow.io/pod": INFERENCE},
        },
        "spec": {"containers": [{"name": "own", "image": "example.test/own"}]},
    }
    ruled.kubectl("create", "--filename=-", stdin=json.dumps(serving))
    used = "--for=jsonpath={.status.used.pods}=1"
    ruled.kubectl("wait", used, "resourcequota/team", "--timeout=60s")
    assert await rehearse(platform, workspace, SERVES) == []
    # It goes on being served while the next generation is tuned.
    assert reasons(await rehearse(platform, workspace, TUNES)) == {("QuotaExceeded", False)}


async def test_our_pods_keep_to_a_limit_range(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    bounds = {"max": {"memory": "3Gi", "cpu": "1"}, "maxLimitRequestRatio": {"cpu": "4"}}
    ruled.rule("LimitRange", {"limits": [{"type": "Container", **bounds}]})
    for pod in (TUNES, SERVES):
        assert await rehearse(platform, workspace, pod) == []


async def test_a_limit_range_too_small_for_the_model_is_told(
    platform: KubernetesPlatform, workspace: Workspace, ruled: Namespace
) -> None:
    ruled.rule("LimitRange", {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]})
    told = await rehearse(platform, workspace, TUNES)
    assert reasons(told) == {("PodForbidden", True)}
    assert "LimitRange team allows at most 1Gi" in told[0].found


async def test_a_workspace_that_is_only_a_file_yet_is_rehearsed_too(
    platform: KubernetesPlatform, workspace: Workspace
) -> None:
    in_a_file = workspace.metadata.model_copy(update={"uid": ""})
    asked = workspace.model_copy(update={"metadata": in_a_file})
    assert await rehearse(platform, asked, SERVES) == []
