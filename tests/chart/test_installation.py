"""The chart on a real API server, in a namespace that lets only restricted pods in."""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chart.conftest import Installation
from tests.chart.rendering import RELEASE, VARIANTS, Object, pod_specs, render, render_text
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
    """A variant's values, with namespaces that are there."""
    values = VARIANTS[variant]
    return values | ({"namespaces": [installation.workspaces]} if "namespaces" in values else {})


def get(installation: Installation, kind: str, name: str = "") -> Any:
    here = ("--namespace", installation.namespace, "--output=json")
    return json.loads(installation.control_plane.kubectl("get", kind, *filter(None, [name]), *here))


def password(installation: Installation, name: str, key: str) -> str:
    return base64.b64decode(get(installation, "secret", name)["data"][key]).decode()


def passwords(installation: Installation) -> tuple[str, str]:
    return (
        password(installation, "kaitoflow-postgresql", "password"),
        password(installation, "kaitoflow-prefect-auth", "auth-string"),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_rendered_applies_without_a_warning(
    installation: Installation, variant: str
) -> None:
    text = render_text(
        for_this_cluster(variant, installation), namespace=installation.namespace, with_crds=True
    )
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
    rendered = render(namespace=installation.namespace)
    replicas = [o["spec"]["replicas"] for o in rendered if list(pod_specs([o]))]
    wanted, found, deadline_s = sum(replicas), 0, time.monotonic() + 60
    while found < wanted and time.monotonic() < deadline_s:
        found = len(get(installation, "pods")["items"])
        time.sleep(0.2)
    assert found == wanted == 6


def test_an_upgrade_keeps_passwords_and_changes_what_was_asked(
    installation: Installation,
) -> None:
    installation.install()
    before = passwords(installation)
    installation.install({"watcher": {"replicas": 3}, "worker": {"replicas": 1}})
    assert passwords(installation) == before
    assert get(installation, "deployment", "kaitoflow-watcher")["spec"]["replicas"] == 3
    budgets = get(installation, "poddisruptionbudgets")["items"]
    assert [budget["metadata"]["name"] for budget in budgets] == ["kaitoflow-watcher"]


def test_an_installation_after_an_uninstallation_has_the_volume_s_password(
    installation: Installation,
) -> None:
    installation.install()
    before = passwords(installation)
    installation.uninstall()
    assert get(installation, "deployments,statefulsets,services")["items"] == []
    installation.install()
    assert passwords(installation) == before


def test_passwords_that_were_deleted_are_made_anew(installation: Installation) -> None:
    installation.install()
    before = passwords(installation)
    secrets = ("secret/kaitoflow-postgresql", "secret/kaitoflow-prefect-auth")
    here = ("--namespace", installation.namespace)
    installation.control_plane.kubectl("delete", *secrets, *here)
    installation.install()
    after = passwords(installation)
    assert not set(before) & set(after)
    assert all(len(each.removeprefix("kaitoflow:")) == 32 for each in after)


def test_the_notes_say_what_comes_next(installation: Installation) -> None:
    notes = installation.helm("upgrade", RELEASE, "deployments/chart", "--install")
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
    assert printed == passwords(installation)[1]
