"""The chart installed by helm on a real API server."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chart.rendering import CHART, RELEASE, Object, helm
from tests.cluster.control_plane import ControlPlane


@dataclass(frozen=True)
class Installation:
    """A release of the chart in a namespace of its own, and a namespace for Workspaces."""

    control_plane: ControlPlane
    namespace: str
    workspaces: str

    def helm(self, *arguments: str, values: Object | None = None) -> str:
        place = ("--namespace", self.namespace)
        stdin = ("--values=-",) if values is not None else ()
        return helm(
            *arguments,
            *place,
            *stdin,
            stdin=json.dumps(values or {}),
            kubeconfig=self.control_plane.kubeconfig,
        )

    def install(self, values: Object | None = None) -> None:
        self.helm("upgrade", RELEASE, str(CHART), "--install", values=values or {})

    def uninstall(self) -> None:
        self.helm("uninstall", RELEASE, "--ignore-not-found")


def new_namespace(control_plane: ControlPlane, **labels: str) -> str:
    name = f"chart-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    for key, value in labels.items():
        told = f"pod-security.kubernetes.io/{key}={value}"
        control_plane.kubectl("label", "namespace", name, told)
    return name


@pytest.fixture
def installation(control_plane: ControlPlane) -> Iterator[Installation]:
    """Nothing is installed yet; whatever a test installs goes with it."""
    restricted = dict.fromkeys(("enforce", "warn", "audit"), "restricted")
    made = Installation(
        control_plane,
        namespace=new_namespace(control_plane, **restricted),
        workspaces=new_namespace(control_plane),
    )
    yield made
    made.uninstall()
    for name in (made.namespace, made.workspaces):
        control_plane.kubectl("delete", "namespace", name, "--wait=false")
