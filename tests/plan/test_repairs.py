"""A run that brings back what was tuned is refused for nothing that it does not need."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Plan, PublishedImage, Tuned
from tasks.contract.errors import AddressForbidden
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tasks.platform.diagnosis import Diagnosis
from tests.builders import tuning_manifest

CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)
IMAGE = PublishedImage(reference="registry.example.com/a:1", digest="sha256:a", pushed=True)
TUNED = Tuned(training="digest", generation=3, image=IMAGE)
DAMAGED = Diagnosis(
    reason="SecretUnusable", asked="it was named", found="no key", fix="mend it", is_final=True
)
INSIDE = AddressForbidden("the judge was asked", "it is inside", "use a public address")


def kept(generation: int = 3, annotations: dict[str, str] | None = None, **of: Any) -> Workspace:
    """The Workspace as a platform keeps it."""
    manifest = tuning_manifest(**of)
    manifest["metadata"] |= {
        "uid": "1",
        "generation": generation,
        "annotations": {f"kaitoflow.io/{k}": v for k, v in (annotations or {}).items()},
    }
    return parse_workspace(manifest, source="test")


def repaired(workspace: Workspace, findings: Findings | None = None, **changes: Any) -> Plan:
    """The plan of a run after the one that tuned it."""
    return make_plan(workspace, replace(CLUSTER, tuned=TUNED, **changes), findings or Findings())


def first(workspace: Workspace, findings: Findings | None = None, **changes: Any) -> Plan:
    """The plan of the run that tunes it."""
    return make_plan(workspace, replace(CLUSTER, **changes), findings or Findings())


def lines(plan: Plan, name: str) -> list[tuple[str, str]]:
    return [(each.result, each.detail) for each in plan.checks if each.name == name]


def but(*names: str) -> Any:
    return lambda name: name not in names


def test_a_push_secret_that_is_gone_is_told_and_refuses_a_tuning_alone() -> None:
    plan = repaired(kept(), has_secret=but("push"))
    assert plan.refused == []
    [(result, detail)] = lines(plan, "secrets")
    assert result == "warn"
    assert detail.startswith("push: not there, and needed by the next tuning alone")
    assert [each.reason for each in first(kept(), has_secret=but("push")).refused] == [
        "SecretNotFound"
    ]


def test_so_are_a_login_for_the_dataset_and_a_secret_that_is_damaged() -> None:
    data = {"image": "registry.example.com/rows:1", "imagePullSecrets": ["rows"]}
    faults = {("Secret", "push"): DAMAGED}
    plan = repaired(kept(input=data), has_secret=but("rows"), faults=faults)
    assert plan.refused == []
    assert [result for result, _ in lines(plan, "secrets")] == ["warn", "warn"]
    assert len(first(kept(input=data), has_secret=but("rows"), faults=faults).refused) == 2


def test_a_claim_with_the_dataset_may_be_gone_and_one_with_the_adapter_may_not() -> None:
    def claim(name: str) -> dict[str, Any]:
        return {"volumeSource": {"persistentVolumeClaim": {"claimName": name}}}

    asked = kept(input=claim("rows"), output=claim("adapters"))
    for name, count in (("rows", 0), ("adapters", 1)):
        faults = {("PersistentVolumeClaim", name): DAMAGED}
        assert len(repaired(asked, faults=faults).refused) == count
        assert len(first(asked, faults=faults).refused) == 1


def test_a_model_s_own_token_is_needed_to_serve_it() -> None:
    preset = {"name": "smollm2-135m-instruct", "presetOptions": {"modelAccessSecret": "hub"}}
    assert len(repaired(kept(preset=preset), has_secret=but("hub")).refused) == 1


def test_where_a_tag_is_to_name_another_image_its_login_is_needed() -> None:
    other = TUNED.model_copy(update={"training": "other", "generation": 4})
    was = first(kept(5)).training
    before = TUNED.model_copy(update={"training": was})
    world = replace(CLUSTER, tuned=other, tuned_before=[before], has_secret=but("push"))
    plan = make_plan(kept(5), world)
    assert plan.comes_back
    assert [each.reason for each in plan.refused] == ["SecretNotFound"]


def test_settings_that_are_gone_leave_what_was_tuned_with_them_as_it_is() -> None:
    asked = kept(config="settings")
    plan = repaired(asked)
    assert (plan.refused, plan.tuned, plan.training) == ([], TUNED, "digest")
    assert [each.reason for each in first(asked).refused] == ["ConfigMapNotFound"]


@pytest.mark.parametrize(
    ("annotations", "world", "findings", "name"),
    [
        ({"promotion": "canary"}, {"has_admin_key": False}, Findings(), "words"),
        (
            {"gate": "judge", "judge": "https://judge.example.com/v1 m"},
            {"is_cluster": False},
            Findings(judge=INSIDE),
            "judge",
        ),
        (
            {"gate": "command", "gate-command": "ghcr.io/example/score:1 score"},
            {},
            Findings(has_gate_image=False),
            "gate",
        ),
    ],
)
def test_what_the_next_candidate_will_need_is_told_and_keeps_nothing_away(
    annotations: dict[str, str], world: dict[str, Any], findings: Findings, name: str
) -> None:
    asked = kept(annotations=annotations)
    assert [each.name for each in first(asked, findings, **world).refused] == [name]
    plan = repaired(asked, findings, **world)
    assert plan.refused == []
    assert [result for result, _ in lines(plan, name)] == ["warn"]
