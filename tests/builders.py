"""Builders of the objects that tests talk about."""

from typing import Any

from tasks.contract.workspace import Workspace, parse_workspace


def tuning_manifest(name: str = "tuned", **changes: Any) -> dict[str, Any]:
    """A tuning Workspace's manifest; `changes` replace fields of `tuning`."""
    tuning: dict[str, Any] = {
        "preset": {"name": "smollm2-135m-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": f"registry.example.com/adapters/{name}:1", "imagePushSecret": "push"},
    }
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"instanceType": "Standard_NC4as_T4_v3"},
        "tuning": tuning | changes,
    }


def tuning_workspace(name: str = "tuned", **changes: Any) -> Workspace:
    """A tuning Workspace."""
    return parse_workspace(tuning_manifest(name, **changes), source="test")
