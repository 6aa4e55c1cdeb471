"""The chart rendered by helm as text and as objects, for each way to install it."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.build import tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deployments" / "chart"
CRDS = ROOT / "deployments" / "crds"
RELEASE, NAMESPACE = "kaitoflow", "kaitoflow"
# The API server that the tests have; helm built from its module takes itself for an ancient one.
KUBE_VERSION = "1.36.0"
DIGEST = f"sha256:{'0' * 64}"

Object = dict[str, Any]

VARIANTS: dict[str, Object] = {
    "default": {},
    "outside-postgresql": {
        "database": {"kind": "external", "external": {"existingSecret": "database"}}
    },
    "outside-prefect": {
        "prefect": {
            "externalUrl": "https://prefect.example.com/api",
            "auth": {"existingSecret": "prefect-login"},
        }
    },
    "sqlite": {"database": {"kind": "sqlite"}, "worker": {"replicas": 1}},
    "air-gapped": {
        "image": {
            "registry": "mirror.example.com/kaitoflow",
            "pullSecrets": ["mirror"],
            "control": {"digest": DIGEST},
            "pod": {"digest": DIGEST},
            "postgresql": {"digest": DIGEST},
        },
        "pods": {"environment": {"HF_ENDPOINT": "https://hub.example.com"}},
    },
    "namespaced": {"namespaces": ["team-a", "team-b"]},
    "karpenter": {"nodes": {"provisioner": "karpenter"}},
    "aks": {
        "nodes": {
            "provisioner": "aks",
            "azure": {
                "subscriptionId": "0-0",
                "resourceGroup": "team",
                "cluster": "gpus",
                "location": "eastus",
            },
        }
    },
    "ingress": {
        "prefect": {"ingress": {"enabled": True, "host": "prefect.example.com"}},
        "namespaces": ["team-a", "team-b"],
        "networkPolicy": {
            "allowToPrefect": [{"namespaceSelector": {}}],
            "workspaces": {"enabled": True},
        },
    },
}


def helm(*arguments: str | Path, stdin: str = "", kubeconfig: Path | None = None) -> str:
    """What helm prints.

    Raises: RuntimeError: it exits with an error; says what it said.
    """
    answer = subprocess.run(
        [tool("helm"), *arguments],
        env=os.environ | {"KUBECONFIG": str(kubeconfig or "/nonexistent")},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"helm {arguments[0]} should succeed, but said: {answer.stderr}")
    return answer.stdout


@cache
def _rendered(values: str, namespace: str, *, with_crds: bool, knows_claims: bool) -> str:
    options = ["--namespace", namespace, "--kube-version", KUBE_VERSION]
    options += ["--include-crds"] if with_crds else []
    options += ["--api-versions", "karpenter.sh/v1/NodeClaim"] if knows_claims else []
    return helm("template", RELEASE, CHART, *options, "--values=-", stdin=values)


def render_text(
    values: Object | None = None,
    *,
    namespace: str = NAMESPACE,
    with_crds: bool = False,
    knows_claims: bool = True,
) -> str:
    """The manifests, one after the other; the same values give the same text.

    Args: knows_claims: whether the cluster has a definition of NodeClaims, as with Karpenter.
    """
    text = json.dumps(values or {})
    return _rendered(text, namespace, with_crds=with_crds, knows_claims=knows_claims)


def render(
    values: Object | None = None,
    *,
    namespace: str = NAMESPACE,
    with_crds: bool = False,
    knows_claims: bool = True,
) -> list[Object]:
    """The manifests as objects."""
    text = render_text(values, namespace=namespace, with_crds=with_crds, knows_claims=knows_claims)
    return [each for each in yaml.safe_load_all(text) if each]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind whose name ends so."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [f"{o['kind']} {o['metadata']['name']}" for o in objects]
    return found[0]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each workload's name with its pods' spec."""
    for each in objects:
        template = each.get("spec", {}).get("template", {})
        if "spec" in template:
            yield each["metadata"]["name"], template["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each container, with its workload's name."""
    for name, spec in pod_specs(objects):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield name, container


def environment(objects: list[Object], component: str) -> dict[str, str]:
    """The variables of a component's container that are written down, not taken from a Secret."""
    found = [c for name, c in containers(objects) if name.endswith(f"-{component}")]
    return {v["name"]: v["value"] for v in found[0]["env"] if "value" in v}
