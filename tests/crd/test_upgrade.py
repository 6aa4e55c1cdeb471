"""Workspaces kept under a laxer schema, as KAITO's is, can be run, corrected and deleted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.crd.conftest import CRD
from tests.crd.samples import manifest

pytestmark = pytest.mark.cluster

_LIMITS = ("maxItems", "maxLength", "maxProperties", "minLength", "minProperties", "minimum")
KEPT: dict[str, dict[str, Any]] = {
    "loopback": {"tuning.input.urls": ["http://127.0.0.1/rows"] * 300},
    "no-secret": {"tuning.output.imagePushSecret": None},
    "nameless": {"tuning.preset": None},
    "like": {"resource.labelSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
}


def without_rules(schema: Any) -> Any:
    """The schema with its types only."""
    if isinstance(schema, list):
        return [without_rules(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    lost = (*_LIMITS, "x-kubernetes-validations")
    return {key: without_rules(part) for key, part in schema.items() if key not in lost}


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own, whose Workspaces are older than the rules."""
    with running_control_plane(tmp_path_factory.mktemp("upgraded")) as cluster:
        lax = json.dumps(without_rules(yaml.safe_load(CRD.read_text())))
        cluster.define("workspaces.kaito.sh", lax)
        for name, broken in KEPT.items():
            workspace = manifest("tuning", broken | {"metadata.name": name})
            workspace["metadata"]["finalizers"] = ["kaito.sh/kept"]
            cluster.kubectl("create", "--filename=-", stdin=json.dumps(workspace))
        cluster.kubectl("apply", "--server-side", "--filename", CRD)
        _wait_for_rules(cluster)
        yield cluster


def _wait_for_rules(cluster: ControlPlane) -> None:
    """The API server serves a changed schema some moments after it took it."""
    told = json.dumps(manifest("tuning", {"tuning.input": {}}))
    for _ in range(100):
        try:
            cluster.kubectl("create", "--dry-run=server", "--filename=-", stdin=told)
        except RuntimeError:
            return
    raise AssertionError("the rules should hold by now")


@pytest.mark.parametrize("name", KEPT)
def test_its_status_can_be_written(upgraded: ControlPlane, name: str) -> None:
    patch = '{"status":{"state":"Failed"}}'
    where = ("--subresource=status", "--type=merge")
    upgraded.kubectl("patch", "workspace", name, *where, "--patch", patch)


@pytest.mark.parametrize("name", KEPT)
def test_it_can_be_deleted_with_its_finalizer(upgraded: ControlPlane, name: str) -> None:
    upgraded.kubectl("delete", "workspace", name, "--wait=false", "--dry-run=server")
    patch = '{"metadata":{"finalizers":[]}}'
    upgraded.kubectl("patch", "workspace", name, "--type=merge", "--patch", patch)


def test_what_is_broken_has_to_be_corrected_when_it_is_edited(upgraded: ControlPlane) -> None:
    patch = '{"tuning":{"output":{"image":"registry.example.com/other:2"}}}'
    with pytest.raises(RuntimeError, match="name the docker-config Secret"):
        upgraded.kubectl("patch", "workspace", "no-secret", "--type=merge", "--patch", patch)
