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
# What the chart of the last release was rendered to, with its defaults, in namespace NAMESPACE.
RELEASED = Path(__file__).with_name("releases") / "0.1.0.yaml"
RELEASE, NAMESPACE = "kaitoflow", "kaitoflow"
# The API server that the tests have; helm built from its module takes itself for an ancient one.
KUBE_VERSION = "1.36.0"
DIGEST = f"sha256:{'0' * 64}"

Object = dict[str, Any]

VARIANTS: dict[str, Object] = {
    "default": {"namespaces": ["team-a"]},
    "everywhere": {"allNamespaces": True},
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
            "vllm": {"digest": DIGEST},
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
                "clientId": "1-1",
                "subscriptionId": "0-0",
                "resourceGroup": "team",
                "cluster": "gpus",
                "location": "eastus",
            },
        }
    },
    "device-plugin": {"devicePlugin": {"enabled": True}},
    "limited": {
        "namespaces": ["team-a"],
        "networkPolicy": {
            "workspaces": {
                "enabled": True,
                "allowTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            },
        },
        "uninstall": {"drain": True},
    },
    "monitored": {
        "namespaces": ["team-a"],
        "metrics": {
            "allowFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            "serviceMonitor": {"enabled": True},
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True, "nodesUsdPerHour": 50},
            "dashboard": {"enabled": True},
        },
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


def served(values: Object | None, namespace: str = "team-a") -> Object:
    """The values, with a namespace of Workspaces where they say nothing of any."""
    given = values or {}
    return (
        given
        if {"namespaces", "allNamespaces"} & set(given)
        else given | {"namespaces": [namespace]}
    )


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
def _rendered(values: str, namespace: str, *, with_crds: bool, knows: tuple[str, ...]) -> str:
    options = ["--namespace", namespace, "--kube-version", KUBE_VERSION]
    options += ["--include-crds"] if with_crds else []
    options += [word for kind in knows for word in ("--api-versions", kind)]
    return helm("template", RELEASE, CHART, *options, "--values=-", stdin=values)


def render_text(
    values: Object | None = None,
    *,
    namespace: str = NAMESPACE,
    with_crds: bool = False,
    knows_claims: bool = True,
    knows: tuple[str, ...] = (),
) -> str:
    """The manifests, one after the other; the same values give the same text.

    Args: knows_claims: whether the cluster has a definition of NodeClaims, as with Karpenter.
    knows: GROUP/VERSION/KIND of what else it has.
    """
    text = json.dumps(served(values))
    knows = ("karpenter.sh/v1/NodeClaim", *knows) if knows_claims else knows
    return _rendered(text, namespace, with_crds=with_crds, knows=knows)


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


def on_nodes(objects: list[Object]) -> list[Object]:
    """What lies where the nodes' own programs do, and is no part of the release's namespace."""
    return [each for each in objects if each["metadata"].get("namespace") == "kube-system"]


def restricted(objects: list[Object]) -> list[Object]:
    """What a namespace has to let in that lets only restricted pods in."""
    there = on_nodes(objects)
    return [each for each in objects if each not in there]


def hooks(objects: list[Object], component: str) -> list[Object]:
    """The objects of a hook, in the order in which Helm makes them; its Job is the last."""
    found = [
        each
        for each in objects
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
        and each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return sorted(found, key=lambda o: int(o["metadata"]["annotations"]["helm.sh/hook-weight"]))


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each workload's name with its pods' spec."""
    for each in objects:
        template = each.get("spec", {}).get("template", {})
        if "spec" in template:
            yield each["metadata"]["name"], template["spec"]


def servers(objects: list[Object]) -> list[Object]:
    """The workloads that go on, without the Jobs of hooks."""
    return [
        each for each in objects if "template" in each.get("spec", {}) and each["kind"] != "Job"
    ]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each container, with its workload's name."""
    for name, spec in pod_specs(objects):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield name, container


def environment(objects: list[Object], component: str) -> dict[str, str]:
    """The variables of a component's container that are written down, not taken from a Secret."""
    found = [c for name, c in containers(objects) if name.endswith(f"-{component}")]
    return {v["name"]: v["value"] for v in found[0]["env"] if "value" in v}
