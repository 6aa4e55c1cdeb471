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


class Corner:
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
        wanted = [own, *taints]
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"apps": self.mark}},
            "spec": {"taints": wanted},
        }
        amounts = {"cpu": "4", "memory": "8Gi", "pods": "10"} | ({GPU: str(gpus)} if gpus else {})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        self.kubectl("create", "--filename=-", stdin=node)
        patch = json.dumps({"status": status})
        self.kubectl("patch", "node", name, "--subresource=status", f"--patch={patch}")
        eventually(lambda: self.taints(name) == {each["key"] for each in wanted})
        return name

    def taints(self, node: str) -> set[str]:
        """The keys of a node's taints; a new one has others too, until a controller has seen it."""
        return {each["key"] for each in self.get("node", node)["spec"].get("taints", [])}

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
def corner(control_plane: ControlPlane, namespace: str) -> Iterator[Corner]:
    made = Corner(control_plane, namespace)
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


def expect(look: Callable[[], Diagnosis | None], reason: str, *parts: str) -> None:
    """In the end the verdict has the reason and says each of these.

    An earlier one may be of a scheduler that had not yet seen all there is.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        verdict = eventually(look)
        lacking = [part for part in parts if part not in verdict.message]
        if verdict.reason == reason and not lacking:
            break
        assert time.monotonic() < deadline, f"{reason} with {lacking} was to be told: {verdict}"
        time.sleep(0.2)
    assert len(verdict.message.split("; ")) == 3


def test_a_pod_that_asks_for_more_gpus_than_there_are(corner: Corner) -> None:
    corner.add_node(gpus=1)
    corner.pod(corner.spec(limits={GPU: "2"}))
    asked = f"pod tuning asks for a node with apps={corner.mark} and free 2 {GPU}; "
    said = f"1 with too little {GPU} even when empty"
    expect(corner.pod_verdict, "Unschedulable", asked, said, "device plugin")


def test_a_pod_that_asks_for_a_gpu_that_another_has(corner: Corner) -> None:
    corner.add_node(gpus=1)
    corner.pod(corner.spec(limits={GPU: "1"}), name="first")
    eventually(lambda: corner.get("pod", "first")["spec"].get("nodeName"))
    corner.pod(corner.spec(limits={GPU: "1"}))
    said = f"1 with too little free {GPU}"
    expect(corner.pod_verdict, "Unschedulable", said, "wait for a free GPU")


def test_a_pod_that_asks_for_labels_that_no_node_has(corner: Corner) -> None:
    corner.add_node()
    corner.pod(corner.spec(nodeSelector={"apps": "nobody"}))
    said = ("asks for a node with apps=nobody", "with other labels", "kubectl label node")
    expect(corner.pod_verdict, "Unschedulable", *said)


def test_a_pod_that_does_not_tolerate_a_taint(corner: Corner) -> None:
    corner.add_node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    corner.pod(corner.spec())
    expect(corner.pod_verdict, "Unschedulable", "1 with a taint", "kubectl taint")


def test_a_pod_whose_claim_is_not_there(corner: Corner) -> None:
    corner.add_node()
    corner.pod(corner.spec(volumes=[claim("none")]))
    said = ('there is no PersistentVolumeClaim "none"', "create the claim")
    expect(corner.pod_verdict, "Unschedulable", *said)


def test_a_pod_whose_claim_gets_no_volume(corner: Corner) -> None:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    corner.apply("PersistentVolumeClaim", "data", spec=asked | {"storageClassName": "none"})
    corner.add_node()
    corner.pod(corner.spec(volumes=[claim("data")]))
    expect(corner.pod_verdict, "Unschedulable", "a PersistentVolumeClaim of the pod")


def test_a_pod_that_got_its_node_is_well(corner: Corner) -> None:
    name = corner.add_node()
    corner.pod(corner.spec())
    eventually(lambda: corner.get("pod", "tuning")["spec"].get("nodeName"))
    assert corner.pod_verdict() is None
    waiting = describe_waiting(corner.get("pod", "tuning"))
    assert waiting == f"preparing volumes and network on node {name}"


def test_a_pod_that_makes_way_for_a_more_important_one(corner: Corner) -> None:
    priority = f"{corner.mark}-high"
    corner.apply("PriorityClass", priority, "scheduling.k8s.io/v1", value=1000)
    corner.add_node(gpus=1)
    corner.pod(corner.spec(limits={GPU: "1"}))
    eventually(lambda: corner.get("pod", "tuning")["spec"].get("nodeName"))
    corner.pod(corner.spec(limits={GPU: "1"}, priorityClassName=priority), name="urgent")
    try:
        expect(corner.pod_verdict, "PodPreempted", "preempting to accommodate a higher priority")
    finally:
        corner.kubectl("delete", "priorityclass", priority)


def test_a_pod_on_a_node_that_is_drained(corner: Corner) -> None:
    node = corner.add_node()
    corner.pod(corner.spec())
    eventually(lambda: corner.get("pod", "tuning")["spec"].get("nodeName"))
    corner.kubectl("drain", node, "--force", "--timeout=1s", expect_error=True)
    expect(corner.pod_verdict, "PodEvicted", "Eviction API: evicting")


def test_a_pod_on_a_node_that_must_be_left(corner: Corner) -> None:
    node = corner.add_node()
    corner.pod(corner.spec())
    eventually(lambda: corner.get("pod", "tuning")["spec"].get("nodeName"))
    corner.kubectl("taint", "node", node, "gone=soon:NoExecute")
    expect(corner.pod_verdict, "NodeLost", "deleting due to NoExecute taint")


def test_a_job_whose_pod_is_not_secure_enough(corner: Corner) -> None:
    level = "pod-security.kubernetes.io/enforce=restricted"
    corner.kubectl("label", "namespace", corner.namespace, level)
    corner.job()
    said = ("Job tuning was asked", 'violates PodSecurity "restricted:latest"', "runAsNonRoot")
    expect(corner.job_verdict, "PodForbidden", *said)


def test_a_job_for_whose_pod_the_quota_has_no_room(corner: Corner) -> None:
    corner.apply("ResourceQuota", "small", spec={"hard": {"pods": "0"}})
    eventually(lambda: corner.get("resourcequota", "small").get("status", {}).get("used"))
    corner.job()
    expect(corner.job_verdict, "QuotaExceeded", "exceeded quota: small", "raise")


def test_a_job_whose_pod_is_larger_than_allowed(corner: Corner) -> None:
    limits = [{"type": "Container", "max": {"memory": "1Gi"}}]
    corner.apply("LimitRange", "small", spec={"limits": limits})
    corner.job(template={"spec": corner.spec(limits={"memory": "2Gi"})})
    said = ("maximum memory usage per Container is 1Gi", "LimitRange")
    expect(corner.job_verdict, "PodForbidden", *said)


def test_a_job_whose_time_is_over(corner: Corner) -> None:
    corner.job(activeDeadlineSeconds=1)
    said = "Job was active longer than specified deadline"
    expect(corner.job_verdict, "DeadlineExceeded", said)


def test_a_job_whose_pod_has_failed_too_often(corner: Corner) -> None:
    corner.job(backoffLimit=0)
    pods = "--selector=job-name=tuning", "--output=name"
    name = eventually(lambda: corner.kubectl("get", "pods", *pods).strip())
    failed = json.dumps({"status": {"phase": "Failed"}})
    corner.kubectl("patch", name, "--subresource=status", "--type=merge", f"--patch={failed}")
    expect(corner.job_verdict, "JobFailed", "specified backoff limit")


def test_nodes_of_the_cluster_are_chosen_as_its_scheduler_would(corner: Corner) -> None:
    taint = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
    own = {"key": corner.mark, "operator": "Exists"}
    names = [corner.add_node(gpus=0), corner.add_node(gpus=1, taints=[taint])]
    need = NodeNeed(labels={"apps": corner.mark}, tolerations=(own,))
    selection = select_nodes(need, corner.all_nodes())
    assert [node.name for node in selection.nodes] == names[1:]
    assert "1 fits" in selection.message
    assert "1 has no GPU" in selection.message
