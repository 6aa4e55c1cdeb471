"""What a real scheduler, API server and controllers write is understood. No kubelet runs."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from tasks.nodes.provisioner import NodeNeed
from tasks.nodes.selection import select_nodes
from tasks.platform.diagnosis import Diagnosis, describe_waiting, diagnose_job, diagnose_pod
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
_PATIENCE_S = 60
Found = TypeVar("Found")


class Cluster:
    """A namespace of the control plane, and nodes that only this test's pods tolerate."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._plane, self.namespace = control_plane, namespace
        self.mark = f"test-{secrets.token_hex(4)}"
        self.nodes: list[str] = []

    def kubectl(
        self, *arguments: str, stdin: Object | None = None, expect_error: bool = False
    ) -> str:
        told = json.dumps(stdin) if stdin else None
        try:
            return self._plane.kubectl("--namespace", self.namespace, *arguments, stdin=told)
        except RuntimeError:
            if expect_error:
                return ""
            raise

    def apply(self, kind: str, name: str, version: str = "v1", **content: Any) -> None:
        manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
        self.kubectl("apply", "--filename=-", stdin=manifest | content)

    def get(self, kind: str, name: str) -> Object:
        return dict(json.loads(self.kubectl("get", kind, name, "--output=json")))

    def events(self) -> list[Object]:
        return list(json.loads(self.kubectl("get", "events", "--output=json"))["items"])

    def all_nodes(self) -> Sequence[Object]:
        return list(json.loads(self.kubectl("get", "nodes", "--output=json"))["items"])

    def add_node(self, *, gpus: int = 1, taints: Sequence[Object] = ()) -> str:
        """A ready node that is labelled for this test alone, and keeps other tests' pods away."""
        name = f"{self.mark}-{len(self.nodes)}"
        self.nodes.append(name)
        own = {"key": self.mark, "value": "own", "effect": "NoSchedule"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"apps": self.mark}},
            "spec": {"taints": [own, *taints]},
        }
        amounts = {"cpu": "4", "memory": "8Gi", "pods": "10"} | ({GPU: str(gpus)} if gpus else {})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        self.kubectl("create", "--filename=-", stdin=node)
        patch = json.dumps({"status": status})
        self.kubectl("patch", "node", name, "--subresource=status", f"--patch={patch}")
        return name

    def spec(self, **changes: Any) -> Object:
        """A pod's spec for this test's nodes."""
        own = {"key": self.mark, "operator": "Exists"}
        limits = changes.pop("limits", {})
        container = {
            "name": "tune",
            "image": "example.test/tune",
            "resources": {"limits": limits},
        }
        return {
            "restartPolicy": "Never",
            "containers": [container],
            "nodeSelector": {"apps": self.mark},
            "tolerations": [own],
            **changes,
        }

    def pod(self, spec: Object, *, name: str = "tuning") -> None:
        self.apply("Pod", name, spec=spec)

    def job(self, **spec: Any) -> None:
        template = {"template": {"spec": self.spec()}}
        self.apply("Job", "tuning", "batch/v1", spec=template | spec)

    def pod_verdict(self) -> Diagnosis | None:
        return diagnose_pod(self.get("pod", "tuning"), events=self.events())

    def job_verdict(self) -> Diagnosis | None:
        return diagnose_job(self.get("job", "tuning"), self.events())


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Iterator[Cluster]:
    made = Cluster(control_plane, namespace)
    yield made
    for name in made.nodes:
        made.kubectl("delete", "node", name, "--wait=false")


def claim(name: str) -> Object:
    """A volume that is a PersistentVolumeClaim's."""
    return {"name": "data", "persistentVolumeClaim": {"claimName": name}}


def eventually(look: Callable[[], Found | None]) -> Found:
    """What is there to be seen sooner or later."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it was not to be seen in a minute"
        time.sleep(0.2)
    return found


def expect(diagnosis: Diagnosis, reason: str, *parts: str) -> None:
    """The verdict has the reason, and says each of these."""
    assert diagnosis.reason == reason
    assert len(diagnosis.message.split("; ")) == 3
    assert [part for part in parts if part not in diagnosis.message] == []


def test_a_pod_that_asks_for_more_gpus_than_there_are(cluster: Cluster) -> None:
    cluster.add_node(gpus=1)
    cluster.pod(cluster.spec(limits={GPU: "2"}))
    asked = f"pod tuning asks for a node with apps={cluster.mark} and free 2 {GPU}; "
    said = f"1 with too little {GPU} even when empty"
    expect(eventually(cluster.pod_verdict), "Unschedulable", asked, said, "device plugin")


def test_a_pod_that_asks_for_a_gpu_that_another_has(cluster: Cluster) -> None:
    cluster.add_node(gpus=1)
    cluster.pod(cluster.spec(limits={GPU: "1"}), name="first")
    eventually(lambda: cluster.get("pod", "first")["spec"].get("nodeName"))
    cluster.pod(cluster.spec(limits={GPU: "1"}))
    said = f"1 with too little free {GPU}"
    expect(eventually(cluster.pod_verdict), "Unschedulable", said, "wait for a free GPU")


def test_a_pod_that_asks_for_labels_that_no_node_has(cluster: Cluster) -> None:
    cluster.add_node()
    cluster.pod(cluster.spec(nodeSelector={"apps": "nobody"}))
    said = ("asks for a node with apps=nobody", "with other labels", "kubectl label node")
    expect(eventually(cluster.pod_verdict), "Unschedulable", *said)


def test_a_pod_that_does_not_tolerate_a_taint(cluster: Cluster) -> None:
    cluster.add_node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    cluster.pod(cluster.spec())
    expect(eventually(cluster.pod_verdict), "Unschedulable", "1 with a taint", "kubectl taint")


def test_a_pod_whose_claim_is_not_there(cluster: Cluster) -> None:
    cluster.add_node()
    cluster.pod(cluster.spec(volumes=[claim("none")]))
    said = ('there is no PersistentVolumeClaim "none"', "create the claim")
    expect(eventually(cluster.pod_verdict), "Unschedulable", *said)


def test_a_pod_whose_claim_gets_no_volume(cluster: Cluster) -> None:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    cluster.apply("PersistentVolumeClaim", "data", spec=asked | {"storageClassName": "none"})
    cluster.add_node()
    cluster.pod(cluster.spec(volumes=[claim("data")]))
    expect(eventually(cluster.pod_verdict), "Unschedulable", "a PersistentVolumeClaim of the pod")


def test_a_pod_that_got_its_node_is_well(cluster: Cluster) -> None:
    name = cluster.add_node()
    cluster.pod(cluster.spec())
    eventually(lambda: cluster.get("pod", "tuning")["spec"].get("nodeName"))
    assert cluster.pod_verdict() is None
    waiting = describe_waiting(cluster.get("pod", "tuning"))
    assert waiting == f"preparing volumes and network on node {name}"


def test_a_pod_that_makes_way_for_a_more_important_one(cluster: Cluster) -> None:
    priority = f"{cluster.mark}-high"
    cluster.apply("PriorityClass", priority, "scheduling.k8s.io/v1", value=1000)
    cluster.add_node(gpus=1)
    cluster.pod(cluster.spec(limits={GPU: "1"}))
    eventually(lambda: cluster.get("pod", "tuning")["spec"].get("nodeName"))
    cluster.pod(cluster.spec(limits={GPU: "1"}, priorityClassName=priority), name="urgent")
    verdict = eventually(cluster.pod_verdict)
    cluster.kubectl("delete", "priorityclass", priority)
    expect(verdict, "PodPreempted", "preempting to accommodate a higher priority pod")


def test_a_pod_on_a_node_that_is_drained(cluster: Cluster) -> None:
    node = cluster.add_node()
    cluster.pod(cluster.spec())
    eventually(lambda: cluster.get("pod", "tuning")["spec"].get("nodeName"))
    cluster.kubectl("drain", node, "--force", "--timeout=1s", expect_error=True)
    expect(eventually(cluster.pod_verdict), "PodEvicted", "Eviction API: evicting")


def test_a_pod_on_a_node_that_must_be_left(cluster: Cluster) -> None:
    node = cluster.add_node()
    cluster.pod(cluster.spec())
    eventually(lambda: cluster.get("pod", "tuning")["spec"].get("nodeName"))
    cluster.kubectl("taint", "node", node, "gone=soon:NoExecute")
    expect(eventually(cluster.pod_verdict), "NodeLost", "deleting due to NoExecute taint")


def test_a_job_whose_pod_is_not_secure_enough(cluster: Cluster) -> None:
    level = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", cluster.namespace, level)
    cluster.job()
    said = ("Job tuning was asked", 'violates PodSecurity "restricted:latest"', "runAsNonRoot")
    expect(eventually(cluster.job_verdict), "PodForbidden", *said)


def test_a_job_for_whose_pod_the_quota_has_no_room(cluster: Cluster) -> None:
    cluster.apply("ResourceQuota", "small", spec={"hard": {"pods": "0"}})
    eventually(lambda: cluster.get("resourcequota", "small").get("status", {}).get("used"))
    cluster.job()
    expect(eventually(cluster.job_verdict), "QuotaExceeded", "exceeded quota: small", "raise")


def test_a_job_whose_pod_is_larger_than_allowed(cluster: Cluster) -> None:
    limits = [{"type": "Container", "max": {"memory": "1Gi"}}]
    cluster.apply("LimitRange", "small", spec={"limits": limits})
    cluster.job(template={"spec": cluster.spec(limits={"memory": "2Gi"})})
    said = ("maximum memory usage per Container is 1Gi", "LimitRange")
    expect(eventually(cluster.job_verdict), "PodForbidden", *said)


def test_a_job_whose_time_is_over(cluster: Cluster) -> None:
    cluster.job(activeDeadlineSeconds=1)
    said = "Job was active longer than specified deadline"
    expect(eventually(cluster.job_verdict), "DeadlineExceeded", said)


def test_a_job_whose_pod_has_failed_too_often(cluster: Cluster) -> None:
    cluster.job(backoffLimit=0)
    pods = "--selector=job-name=tuning", "--output=name"
    name = eventually(lambda: cluster.kubectl("get", "pods", *pods).strip())
    failed = json.dumps({"status": {"phase": "Failed"}})
    cluster.kubectl("patch", name, "--subresource=status", "--type=merge", f"--patch={failed}")
    expect(eventually(cluster.job_verdict), "JobFailed", "specified backoff limit")


def test_nodes_of_the_cluster_are_chosen_as_its_scheduler_would(cluster: Cluster) -> None:
    taint = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
    own = {"key": cluster.mark, "operator": "Exists"}
    names = [cluster.add_node(gpus=0), cluster.add_node(gpus=1, taints=[taint])]
    need = NodeNeed(labels={"apps": cluster.mark}, tolerations=(own,))
    selection = select_nodes(need, cluster.all_nodes())
    assert [node.name for node in selection.nodes] == names[1:]
    assert "1 fits" in selection.message
    assert "1 has no GPU" in selection.message
