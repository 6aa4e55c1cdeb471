"""Taints that a Workspace's pods tolerate beside those of GPU nodes."""

from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.tolerations import own_tolerations
from tests.builders import tuning_manifest


def asking(text: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/tolerations": text}
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "team=ml:NoSchedule",
            [{"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}],
        ),
        ("team:NoExecute", [{"key": "team", "operator": "Exists", "effect": "NoExecute"}]),
        ("team", [{"key": "team", "operator": "Exists"}]),
        ("team=", [{"key": "team", "operator": "Equal", "value": ""}]),
        (
            "a=1, b.io/c",
            [
                {"key": "a", "operator": "Equal", "value": "1"},
                {"key": "b.io/c", "operator": "Exists"},
            ],
        ),
        ("", []),
    ],
)
def test_taints_are_written_as_kubectl_writes_them(
    text: str, expected: list[dict[str, Any]]
) -> None:
    assert own_tolerations(asking(text)) == expected


@pytest.mark.parametrize("text", ["=ml", "team=ml:Never", "team ml", "team=a=b", ":NoSchedule"])
def test_what_is_no_taint_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(InvalidWorkspace, match="team=ml:NoSchedule"):
        own_tolerations(asking(text))
