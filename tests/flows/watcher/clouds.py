"""Nodes that are made for Workspaces: who plays the cloud, and the Workspaces that ask for them."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from typing import Any

from tests.cluster.simulated_node import SimulatedNode, simulated_node
from tests.flows.watcher.installation import Installation, workspace_manifest

CRD = "nodeclaims.karpenter.sh"


def wanting(namespace: str, **annotations: str) -> dict[str, Any]:
    """The quick start's Workspace, for a node that is not there yet."""
    manifest = workspace_manifest(namespace)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": namespace}}
    manifest["metadata"]["annotations"] = annotations
    return manifest


def joining(
    installed: Installation, name: str, labels: Mapping[str, str], *, instance_type: str
) -> AbstractContextManager[SimulatedNode]:
    """A machine that becomes a node and plays its kubelet, for as long as the context lasts."""
    certificates = installed.control_plane.folder / "certificates"
    own = {"node.kubernetes.io/instance-type": instance_type, "kubernetes.io/hostname": name}
    return simulated_node(
        installed.control_plane.kubeconfig,
        name,
        labels={**labels, **own},
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    )


class Cloud:
    """Fulfils claims by hand: each becomes a node that plays its kubelet."""

    def __init__(self, installed: Installation, running: ExitStack) -> None:
        self._installed, self._running = installed, running

    def claims(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self._installed.kubectl("get", "nodeclaims", "--output=json")
        )["items"]
        return found

    def fulfil(self, claim: dict[str, Any]) -> None:
        """Let the claim's machine join, with the claim's labels."""
        name = f"node-{claim['metadata']['name']}"
        node = joining(
            self._installed, name, claim["metadata"]["labels"], instance_type="Standard_NC6s_v3"
        )
        self._running.enter_context(node)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        done = {"status": "True", "message": "", "lastTransitionTime": now}
        steps = ("Launched", "Registered", "Initialized")
        conditions = [{"type": step, "reason": step, **done} for step in steps]
        status = {"status": {"nodeName": name, "conditions": conditions}}
        patch = ("patch", "nodeclaim", claim["metadata"]["name"], "--subresource=status")
        self._installed.kubectl(*patch, "--type=merge", f"--patch={json.dumps(status)}")
