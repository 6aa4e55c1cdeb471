"""Nodes that are made for Workspaces: who plays the cloud, and the Workspaces that ask for them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import NAMESPACE, VARIANTS, render
from tests.cluster.simulated_node import SimulatedNode, simulated_node
from tests.flows.watcher.conftest import installation
from tests.flows.watcher.installation import _RIGHTS, Installation, workspace_manifest
from tests.nodes.karpenter import claims_crd

CRD = "nodeclaims.karpenter.sh"


@contextmanager
def claiming_installation(
    folder: Path, prefect_api: str, *, provisioner: str
) -> Iterator[Installation]:
    """Kaitoflow as the chart installs it with a provisioner; no program runs yet.

    What a NodeClaim is says Karpenter, and for AKS the chart. With byo, which claims nothing, the
    API server knows them all the same.
    """
    values = VARIANTS["everywhere"] | ({} if provisioner == "byo" else VARIANTS[provisioner])
    chart = render(values, knows_claims=provisioner == "karpenter")
    from_chart = [json.dumps(each) for each in chart if each["metadata"]["name"] == CRD]
    rights = [each for each in chart if each["kind"] in _RIGHTS]
    with installation(folder, prefect_api) as made:
        made.control_plane.define(CRD, from_chart[0] if from_chart else claims_crd())
        made.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(rights))
        made.settings |= {
            "KAITOFLOW_PROVISIONER": provisioner,
            "KAITOFLOW_NAMESPACE": NAMESPACE,
        }
        yield made


def claims_of(installed: Installation) -> list[dict[str, Any]]:
    """The ledger: all claims that there are."""
    found: list[dict[str, Any]] = json.loads(
        installed.kubectl("get", "nodeclaims", "--output=json")
    )["items"]
    return found


def wanting(namespace: str, **annotations: str) -> dict[str, Any]:
    """The quick start's Workspace, for a node that is not there yet."""
    manifest = workspace_manifest(namespace)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": namespace}}
    manifest["metadata"]["annotations"] = annotations
    return manifest


def joining(
    installed: Installation,
    name: str,
    labels: Mapping[str, str],
    *,
    instance_type: str,
    taints: Sequence[dict[str, str]] = (),
    gpus: int = 0,
) -> AbstractContextManager[SimulatedNode]:
    """A machine that becomes a node and plays its kubelet, for as long as the context lasts."""
    certificates = installed.control_plane.folder / "certificates"
    own = {"node.kubernetes.io/instance-type": instance_type, "kubernetes.io/hostname": name}
    return simulated_node(
        installed.control_plane.kubeconfig,
        name,
        labels={**labels, **own},
        taints=taints,
        gpus=gpus,
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    )


class Cloud:
    """Fulfils claims by hand: each becomes a node that plays its kubelet."""

    def __init__(self, installed: Installation, running: ExitStack) -> None:
        self._installed, self._running = installed, running

    def claims(self) -> list[dict[str, Any]]:
        return claims_of(self._installed)

    def fulfil(self, claim: dict[str, Any]) -> None:
        """Let the claim's machine join, with the claim's labels."""
        name = f"node-{claim['metadata']['name']}"
        node = joining(
            self._installed, name, claim["metadata"]["labels"], instance_type="Standard_NC4as_T4_v3"
        )
        self._running.enter_context(node)
        tell_initialized(self._installed, claim, name)


def tell_initialized(installed: Installation, claim: dict[str, Any], node: str) -> None:
    """Say of a claim that it has become a node, as who fulfils claims does."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = {"status": "True", "message": "", "lastTransitionTime": now}
    steps = ("Launched", "Registered", "Initialized")
    conditions = [{"type": step, "reason": step, **done} for step in steps]
    status = {"status": {"nodeName": node, "conditions": conditions}}
    patch = ("patch", "nodeclaim", claim["metadata"]["name"], "--subresource=status")
    installed.kubectl(*patch, "--type=merge", f"--patch={json.dumps(status)}")
