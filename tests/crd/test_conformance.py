"""Manifests as KAITO's users write them apply unchanged, in both versions, and nothing is lost."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract.workspace import parse_workspace
from tests.cluster.control_plane import ControlPlane
from tests.crd.samples import manifest

pytestmark = pytest.mark.cluster

VERSIONS = ("v1alpha1", "v1beta1")
KAITO_ANNOTATIONS = {
    "kaito.sh/enablelb": "True",
    "kaito.sh/runtime": "vllm",
    "kaito.sh/bypass-resource-checks": "",
    "kaito.sh/node-image-family": "ubuntu",
    "kaito.sh/performance-mode": "throughput",
    "workspace.kaito.io/hash": "0123",
    "workspace.kaito.io/revision": "1",
}

Apply = Callable[[dict[str, Any]], dict[str, Any]]
Read = Callable[..., dict[str, Any]]


KAITO_FILES = sorted((Path(__file__).parents[1] / "kaito").glob("*.yaml"))
# Two of the Workspaces share a name: here each goes by its file's.
KAITO_WORKSPACES = [
    pytest.param(document | {"metadata": {"name": re.sub(r"[_.]", "-", path.stem)}}, id=path.stem)
    for path in KAITO_FILES
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if document and document["kind"] == "Workspace"
]


def with_defaults(workspace: dict[str, Any], version: str) -> dict[str, Any]:
    """What KAITO's schema adds to a Workspace, and nothing else."""
    full = copy.deepcopy(workspace)
    full["resource"] = {"count": 1} | full["resource"]
    if version == "v1alpha1":
        full["resource"] = {"instanceType": "Standard_NC24ads_A100_v4"} | full["resource"]
    for part in (full.get("tuning", {}), full.get("inference", {})):
        if "preset" in part:
            part["preset"] = {"accessMode": "public"} | part["preset"]
    return full


def content(workspace: dict[str, Any]) -> dict[str, Any]:
    """What a user writes: no metadata of the server's, no status."""
    return {key: value for key, value in workspace.items() if key not in ("metadata", "status")}


def in_version(workspace: dict[str, Any], version: str) -> dict[str, Any]:
    """The Workspace as it is written in a version, under a name of its own there."""
    name = f"{workspace['metadata']['name']}-{version}"
    changed = {"apiVersion": f"kaito.sh/{version}", "metadata": {"name": name}}
    written = workspace | changed
    preset = written.get("inference", {}).get("preset", {})
    if version == "v1alpha1" and "presetOptions" in preset:
        written = copy.deepcopy(written)
        del written["inference"]["preset"]["presetOptions"]  # its modelAccessSecret is of v1beta1
    return written


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("workspace", KAITO_WORKSPACES)
def test_it_is_kept_as_it_was_written(
    apply: Apply, read: Read, workspace: dict[str, Any], version: str
) -> None:
    written = in_version(workspace, version)
    apply(written)
    kept = read(written["metadata"]["name"], version=version)
    assert content(kept) == content(with_defaults(written, version))


@pytest.mark.parametrize("workspace", KAITO_WORKSPACES)
def test_what_is_kept_is_understood_as_what_was_written(
    apply: Apply, workspace: dict[str, Any]
) -> None:
    written = in_version(workspace, "v1beta1")
    kept, given = (parse_workspace(each, source="kaito") for each in (apply(written), written))
    assert content(kept.model_dump()) == content(given.model_dump())


@pytest.mark.parametrize("path", KAITO_FILES, ids=lambda path: path.stem)
def test_a_file_of_kaito_applies_unchanged(
    cluster: ControlPlane, namespace: str, path: Path
) -> None:
    assert "created" in cluster.kubectl("apply", "--namespace", namespace, "--filename", path)


@pytest.mark.parametrize("version", VERSIONS)
def test_defaults_are_kaitos(apply: Apply, version: str) -> None:
    given = manifest("template", {"metadata.name": f"defaults-{version}", "resource": None})
    resource = apply(given | {"apiVersion": f"kaito.sh/{version}"})["resource"]
    machine = {"instanceType": "Standard_NC24ads_A100_v4"} if version == "v1alpha1" else {}
    assert resource == {"count": 1, "labelSelector": {}} | machine


def test_templates_and_volumes_are_kept_to_the_letter(apply: Apply) -> None:
    template = {"spec": {"containers": [{"name": "a", "madeUp": {"deep": [1, None, "x"]}}]}}
    volume = {"madeUp": {"readOnly": True, "deep": [{"a": 1.5}]}}
    served = manifest("template", {"metadata.name": "verbatim", "inference.template": template})
    tuned = manifest(
        "tuning", {"metadata.name": "volumes", "tuning.input": {"volumeSource": volume}}
    )
    assert apply(served)["inference"]["template"] == template
    assert apply(tuned)["tuning"]["input"]["volumeSource"] == volume


def test_v1alpha1_shows_a_v1beta1_workspace_without_what_is_new(apply: Apply, read: Read) -> None:
    new = {
        "metadata.name": "newer",
        "resource.partition": {"mode": "accelerator", "count": 1},
        "inference.preset.presetOptions": {"modelAccessSecret": "hub", "image": "r.example.com/a"},
    }
    apply(manifest("inference", new))
    shown = read("newer", version="v1alpha1")
    assert "partition" not in shown["resource"]
    assert shown["inference"]["preset"]["presetOptions"] == {"image": "r.example.com/a"}


def test_both_versions_are_served_and_one_is_kept(cluster: ControlPlane) -> None:
    crd = json.loads(cluster.kubectl("get", "crd", "workspaces.kaito.sh", "--output=json"))
    versions = {v["name"]: (v["served"], v["storage"]) for v in crd["spec"]["versions"]}
    assert versions == {"v1beta1": (True, True), "v1alpha1": (True, False)}
    assert crd["status"]["storedVersions"] == ["v1beta1"]


@pytest.mark.parametrize("word", ["workspace", "workspaces", "wk", "wks"])
def test_it_goes_by_kaitos_names(apply: Apply, cluster: ControlPlane, room: str, word: str) -> None:
    apply(manifest("inference", {"metadata.name": "named"}))
    names = cluster.kubectl("get", word, "--namespace", room, "--output=name").split()
    assert "workspace.kaito.sh/named" in names


def test_kaitos_annotations_labels_and_finalizer_are_kept(apply: Apply) -> None:
    given = manifest("inference", {"metadata.name": "marked"})
    given["metadata"] |= {
        "annotations": KAITO_ANNOTATIONS,
        "labels": {"kaito.sh/workspace": "marked"},
        "finalizers": ["example.com/kept"],
    }
    kept = apply(given)["metadata"]
    assert kept["annotations"].items() >= KAITO_ANNOTATIONS.items()
    assert (kept["labels"], kept["finalizers"]) == (
        {"kaito.sh/workspace": "marked"},
        ["example.com/kept"],
    )
    apply(given | {"metadata": given["metadata"] | {"finalizers": []}})
