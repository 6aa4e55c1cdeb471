"""The chart on a real API server, in a namespace that lets only restricted pods in."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import Installation
from tests.chart.rendering import RELEASE, VARIANTS, Object, render, servers
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LOOSE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: loose, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: loose}}
  template:
    metadata: {labels: {app: loose}}
    spec:
      containers: [{name: loose, image: example.test/loose}]
"""


def apply(control_plane: ControlPlane, manifests: str) -> str:
    """Server-side apply; the warnings that it prints."""
    kubectl = str(Path(sys.executable).with_name("kubectl"))
    answer = subprocess.run(
        [kubectl, "apply", "--server-side", "--force-conflicts", "--filename=-"],
        env={"KUBECONFIG": str(control_plane.kubeconfig), "HOME": str(control_plane.folder)},
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stderr


def for_this_cluster(variant: str, installation: Installation) -> Object:
    """A variant's values, with a namespace that is there."""
    values = VARIANTS[variant]
    there: Object = {} if "allNamespaces" in values else {"namespaces": [installation.workspaces]}
    if plugin := values.get("devicePlugin"):
        # In place of kube-system, of which there is one for all tests; it goes with the test.
        there["devicePlugin"] = plugin | {"namespace": installation.workspaces}
    return values | there


def get(installation: Installation, kind: str, name: str = "") -> Any:
    here = ("--namespace", installation.namespace, "--output=json")
    return json.loads(installation.control_plane.kubectl("get", kind, *filter(None, [name]), *here))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_rendered_applies_without_a_warning(
    installation: Installation, variant: str
) -> None:
    values = for_this_cluster(variant, installation)
    objects = render(values, namespace=installation.namespace, with_crds=True)
    # The Prometheus operator's kinds are not here.
    known = [o for o in objects if not o["apiVersion"].startswith("monitoring.coreos.com/")]
    text = yaml.safe_dump_all(known)
    try:
        assert apply(installation.control_plane, text) == ""
    finally:
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/part-of=kaitoflow"
        policies = "validatingadmissionpolicies,validatingadmissionpolicybindings"
        kinds = f"clusterroles,clusterrolebindings,{policies}"
        named = installation.control_plane.kubectl("get", kinds, "-l", selector, "-o=name").split()
        ours = [name for name in named if f"/{installation.namespace}-" in name]
        installation.control_plane.kubectl("delete", "--ignore-not-found", *ours)


def test_a_pod_that_is_not_restricted_would_be_warned_of(installation: Installation) -> None:
    loose = LOOSE.replace("NAMESPACE", installation.namespace)
    warned = apply(installation.control_plane, loose)
    assert "would violate PodSecurity" in warned


def test_helm_installs_it_and_the_cluster_lets_every_pod_in(installation: Installation) -> None:
    installation.install()
    replicas = [each["spec"]["replicas"] for each in servers(installation.render())]
    wanted, found, deadline_s = sum(replicas), 0, time.monotonic() + 60
    while found < wanted and time.monotonic() < deadline_s:
        found = len(get(installation, "pods")["items"])
        time.sleep(0.2)
    assert found == wanted == 6


def test_an_upgrade_changes_what_was_asked(installation: Installation) -> None:
    installation.install()
    installation.install({"watcher": {"replicas": 3}, "worker": {"replicas": 1}})
    assert get(installation, "deployment", "kaitoflow-watcher")["spec"]["replicas"] == 3
    budgets = get(installation, "poddisruptionbudgets")["items"]
    assert [budget["metadata"]["name"] for budget in budgets] == ["kaitoflow-watcher"]


def test_the_notes_say_what_comes_next(installation: Installation) -> None:
    assert installation.run_hook("passwords").returncode == 0
    notes = installation.helm(
        *("upgrade", RELEASE, "deployments/chart", "--install", "--no-hooks"),
        values=installation.values(),
    )
    login = (
        f"kubectl get secret --namespace {installation.namespace} kaitoflow-prefect-auth "
        """--output go-template='{{ index .data "auth-string" | base64decode }}'"""
    )
    assert login in notes
    assert "kubectl port-forward" in notes
    assert "kubectl apply --filename workspace.yaml" in notes
    printed = installation.control_plane.kubectl(
        *("get", "secret", "kaitoflow-prefect-auth", "--namespace", installation.namespace),
        *("--output", 'go-template={{ index .data "auth-string" | base64decode }}'),
    )
    assert re.fullmatch(r"kaitoflow:[A-Za-z0-9]{32}", printed)
