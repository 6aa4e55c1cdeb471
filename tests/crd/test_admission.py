"""The API server and the pydantic model refuse the same Workspaces, and both say what to do."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import parse_workspace
from tests.cluster.control_plane import ControlPlane
from tests.crd.samples import (
    Edit,
    Sample,
    accepted_samples,
    edits,
    manifest,
    refused_samples,
    urls,
)

REFUSED = refused_samples()
JUDGED_BY_THE_MODEL = [sample for sample in REFUSED if sample.model]
ACCEPTED = accepted_samples()
EDITS = edits()

Apply = Callable[[dict[str, Any]], dict[str, Any]]


def create(cluster: ControlPlane, workspace: dict[str, Any]) -> None:
    """Ask the API server to judge a new Workspace; nothing is kept."""
    cluster.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(workspace))


@pytest.mark.cluster
@pytest.mark.parametrize("sample", REFUSED, ids=str)
def test_the_api_server_refuses(cluster: ControlPlane, sample: Sample) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){sample.server}"):
        create(cluster, sample.manifest)


@pytest.mark.parametrize("sample", JUDGED_BY_THE_MODEL, ids=str)
def test_the_model_refuses(sample: Sample) -> None:
    with pytest.raises(InvalidWorkspace, match=sample.model):
        parse_workspace(sample.manifest, source="sample")


@pytest.mark.cluster
@pytest.mark.parametrize("sample", ACCEPTED, ids=str)
def test_the_api_server_accepts(cluster: ControlPlane, sample: Sample) -> None:
    create(cluster, sample.manifest)


@pytest.mark.parametrize("sample", ACCEPTED, ids=str)
def test_the_model_accepts(sample: Sample) -> None:
    parse_workspace(sample.manifest, source="sample")


def test_the_model_takes_a_field_that_is_null_as_absent() -> None:
    given = manifest("tuning", {}) | {"inference": None}
    given["tuning"] |= {"config": None, "method": None}
    assert parse_workspace(given, source="sample").tuning


@pytest.mark.cluster
def test_the_api_server_takes_a_field_that_is_null_as_absent(cluster: ControlPlane) -> None:
    given = manifest("tuning", {}) | {"inference": None}
    given["tuning"] |= {"config": None, "method": None}
    create(cluster, given)


@pytest.mark.cluster
@pytest.mark.parametrize("url", urls("refused"))
def test_a_pod_is_not_sent_to(cluster: ControlPlane, url: str) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)urls\[0\]: Invalid value: .*(use|write|put)"):
        create(cluster, manifest("tuning", {"tuning.input.urls": [url]}))


@pytest.mark.cluster
def test_a_pod_is_sent_to_public_addresses(cluster: ControlPlane) -> None:
    create(cluster, manifest("tuning", {"tuning.input.urls": urls("accepted")}))


@pytest.mark.cluster
def test_as_many_urls_as_fit_are_judged(cluster: ControlPlane) -> None:
    many = [f"https://example.com/{'x' * 2000}/{number}" for number in range(256)]
    create(cluster, manifest("tuning", {"tuning.input.urls": many}))


@pytest.mark.cluster
def test_more_urls_are_refused(cluster: ControlPlane) -> None:
    many = [f"https://example.com/{number}" for number in range(257)]
    with pytest.raises(RuntimeError, match="tuning.input.urls: Too many: 257"):
        create(cluster, manifest("tuning", {"tuning.input.urls": many}))


def test_the_model_refuses_more_urls_too() -> None:
    many = [f"https://example.com/{number}" for number in range(257)]
    with pytest.raises(InvalidWorkspace, match="tuning.input.urls: .*at most 256"):
        parse_workspace(manifest("tuning", {"tuning.input.urls": many}), source="sample")


@pytest.mark.cluster
def test_several_broken_rules_are_told_at_once(cluster: ControlPlane) -> None:
    broken = manifest("tuning", {"tuning.method": "x", "tuning.input": {}, "resource.count": 0})
    with pytest.raises(RuntimeError) as refused:
        create(cluster, broken)
    for field in ("tuning.method", "tuning.input", "resource.count"):
        assert re.search(rf"\* {field}: ", str(refused.value))


@pytest.mark.cluster
@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_an_edit(apply: Apply, edit: Edit, request: pytest.FixtureRequest) -> None:
    name = f"edit-{EDITS.index(edit)}"
    for workspace in (edit.before, edit.after):
        workspace["metadata"]["name"] = name
    apply(edit.before)
    if edit.says is None:
        apply(edit.after)
        return
    with pytest.raises(RuntimeError, match=edit.says):
        apply(edit.after)


@pytest.mark.cluster
def test_an_unknown_field_is_dropped_only_where_that_was_asked_for(
    cluster: ControlPlane, room: str
) -> None:
    told = json.dumps(manifest("tuning", {"tuning.inputs": {}, "metadata.name": "dropped"}))
    kept = cluster.kubectl(
        "create", "--validate=warn", "-n", room, "-f", "-", "-o", "json", stdin=told
    )
    assert "inputs" not in json.loads(kept)["tuning"]
