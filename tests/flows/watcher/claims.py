"""Kaitoflow installed where nodes are made: what is claimed, and machines that become nodes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import NAMESPACE, VARIANTS, render
from tests.cluster.simulated_node import SimulatedNode, simulated_node
from tests.flows.watcher.conftest import installation
from tests.flows.watcher.installation import RIGHTS, Installation
from tests.nodes.karpenter import claims_crd

_CRD = "nodeclaims.karpenter.sh"


@contextmanager
def claiming_installation(
    folder: Path, prefect_api: str, *, provisioner: str
) -> Iterator[Installation]:
    """Kaitoflow with a provisioner, and the rights that the chart gives then; no program runs."""
    with installation(folder, prefect_api) as made:
        made.control_plane.define(_CRD, claims_crd())
        rights = [each for each in render(VARIANTS[provisioner]) if each["kind"] in RIGHTS]
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


def joined(
    installed: Installation,
    name: str,
    *,
    labels: dict[str, str],
    taints: Sequence[dict[str, str]] = (),
    gpus: int = 0,
) -> AbstractContextManager[SimulatedNode]:
    """A machine of the quick start's size as a node that plays its kubelet."""
    certificates = installed.control_plane.folder / "certificates"
    own = {
        "kubernetes.io/hostname": name,
        "node.kubernetes.io/instance-type": "Standard_NC6s_v3",
    }
    return simulated_node(
        installed.control_plane.kubeconfig,
        name,
        labels=own | labels,
        taints=taints,
        gpus=gpus,
        certificate=certificates / "apiserver.crt",
        key=certificates / "apiserver.key",
    )
