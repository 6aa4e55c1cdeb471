import json
from pathlib import Path

import httpx2
import pytest

from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

GRANT = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default}]
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: tune}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: tune, image: example.test/tune}]
"""
READY_NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "made-up"},
    "status": {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "MadeUp"}],
    },
}


def test_the_api_server_is_of_the_pinned_version(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "--output=json"))
    assert version["serverVersion"]["gitVersion"].startswith("v1.36.")


def test_a_refusal_of_kubectl_is_told(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(RuntimeError, match=r'kubectl get pod none .*"none" not found'):
        control_plane.kubectl("get", "pod", "none", "--namespace", namespace)


def test_who_has_no_token_is_refused(control_plane: ControlPlane) -> None:
    with httpx2.Client(verify=False, trust_env=False) as client:
        assert client.get(f"{control_plane.url}/api/v1/pods").status_code == 403


def test_a_service_account_may_do_what_its_role_says_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("apply", "--namespace", namespace, "--filename=-", stdin=GRANT)
    reader = control_plane.service_account_kubeconfig(namespace, "default")
    assert "kube-root-ca.crt" in control_plane.kubectl("get", "configmaps", kubeconfig=reader)
    with pytest.raises(RuntimeError, match="cannot list resource"):
        control_plane.kubectl("get", "secrets", kubeconfig=reader)


def wait_for_pod(control_plane: ControlPlane, namespace: str, state: str) -> None:
    """Until the Job's pod is there, and then is in a state."""
    wait = ("wait", "pod", "--selector=job-name=tune", "--namespace", namespace, "--timeout=60s")
    control_plane.kubectl(*wait, "--for=create")
    control_plane.kubectl(*wait, f"--for=jsonpath={state}")


def test_a_job_gets_its_pod(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "--namespace", namespace, "--filename=-", stdin=JOB)
    wait_for_pod(control_plane, namespace, "{.status.conditions[0].reason}=Unschedulable")


def test_a_pod_is_given_to_a_node_that_a_test_made_up(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("create", "--filename=-", stdin=json.dumps(READY_NODE))
    try:
        control_plane.kubectl(
            *("patch", "node", "made-up", "--subresource=status", "--type=merge"),
            *("--patch", json.dumps({"status": READY_NODE["status"]})),
        )
        control_plane.kubectl("create", "--namespace", namespace, "--filename=-", stdin=JOB)
        wait_for_pod(control_plane, namespace, "{.spec.nodeName}=made-up")
    finally:
        control_plane.kubectl("delete", "node", "made-up")


def test_a_namespace_goes_with_all_that_is_in_it(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "short-lived")
    control_plane.kubectl("create", "configmap", "kept", "--namespace=short-lived")
    control_plane.kubectl("delete", "namespace", "short-lived", "--timeout=60s")
    with pytest.raises(RuntimeError, match="not found"):
        control_plane.kubectl("get", "namespace", "short-lived")


def test_objects_outlive_an_outage_of_the_api_server(
    control_plane: ControlPlane, namespace: str, kubeconfig: Path
) -> None:
    create = ("create", "configmap", "kept", "--namespace", namespace)
    control_plane.kubectl(*create, "--from-literal=answer=42")
    control_plane.stop_api_server()
    assert not control_plane.is_ready()
    control_plane.start_api_server()
    kept = control_plane.kubectl("get", "configmap", "kept", "--namespace", namespace, "-o=yaml")
    assert 'answer: "42"' in kept
