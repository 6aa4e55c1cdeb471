"""A plan becomes an acceptance, or a refusal with every line that stops the run."""

from pathlib import Path
from typing import Any

import pytest

from tasks import steps
from tasks.contract.artifacts import Check, Plan, PublishedImage, Tuned
from tasks.contract.errors import DatasetUnreachable, SecretNotFound
from tasks.contract.status import ConditionType
from tasks.contract.workspace import Manifests, Workspace
from tasks.plan import task as step
from tasks.plan.findings import Findings
from tasks.plan.task import _description, check_workspace, plan_candidate, plan_workspace
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_workspace

FINE = Check(name="schema", result="ok", detail="v1beta1")
MINDED = Check(name="time", result="warn", detail="about 2 days", fix="tune on a GPU")
GONE = Check(
    name="dataset",
    result="fail",
    detail="it is gone",
    fix="correct it",
    reason="DatasetUnreachable",
)
SECRET = Check(
    name="secrets", result="fail", detail="there is none", fix="create it", reason="SecretNotFound"
)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    made = LocalPlatform(Settings(home=tmp_path))
    monkeypatch.setattr(steps, "current_platform", lambda: made)
    return made


@pytest.fixture
def workspace(platform: LocalPlatform) -> Workspace:
    return platform.store.apply(Manifests(workspace=tuning_workspace()))


@pytest.fixture
def tables(platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The tables that plans show in the UI; nobody else is asked anything."""
    shown: list[dict[str, Any]] = []

    async def show(rows: list[Any], **heading: Any) -> None:
        shown.append({"rows": rows, **heading})

    async def look(*_: object, **__: object) -> Findings:
        return Findings(provisioner="local")

    monkeypatch.setattr(step, "acreate_table_artifact", show)
    monkeypatch.setattr(step, "look", look)
    monkeypatch.setattr(step, "current_platform", lambda: platform)
    return shown


@pytest.mark.usefixtures("tables")
async def test_a_candidate_is_tuned_anew_where_the_run_of_a_workspace_is_not(
    platform: LocalPlatform, workspace: Workspace
) -> None:
    image = PublishedImage(reference="registry.example.com/a:1", digest=f"sha256:{'a' * 64}")
    tuned = Tuned(training="t", generation=workspace.metadata.generation, image=image)
    status = await platform.read_status(workspace)
    await platform.write_status(workspace, status.model_copy(update={"tuned": tuned}))
    assert (await plan_workspace.fn(workspace, push=False, port=None)).tuned == tuned
    assert (await plan_candidate.fn(workspace, push=False)).tuned is None


async def test_a_plan_is_shown_as_a_table_of_its_checks(
    workspace: Workspace, tables: list[dict[str, Any]]
) -> None:
    plan = await plan_workspace.fn(workspace, push=False, port=None)
    [table] = tables
    assert [row["name"] for row in table["rows"]] == [check.name for check in plan.checks]
    assert {*table["rows"][0]} == {"name", "result", "detail", "fix"}
    assert (table["key"], table["description"]) == ("plan", _description(workspace, plan))


@pytest.mark.usefixtures("tables")
async def test_a_candidate_that_no_run_could_tune_is_refused(platform: LocalPlatform) -> None:
    bare = tuning_workspace(input={"urls": ["rows.jsonl"]})
    workspace = platform.store.apply(Manifests(workspace=bare))
    with pytest.raises(DatasetUnreachable, match="rows.jsonl"):
        await plan_candidate.fn(workspace, push=False)


async def test_a_plan_without_a_failed_line_is_an_acceptance_that_says_what_to_mind(
    platform: LocalPlatform, workspace: Workspace
) -> None:
    await check_workspace.fn(workspace, Plan(checks=[FINE, MINDED]))
    status = await platform.read_status(workspace)
    accepted = status.condition(ConditionType.ACCEPTED)
    assert accepted
    assert (accepted.status, accepted.reason) == ("True", "Accepted")
    assert accepted.message == "no check failed\ntime: about 2 days; tune on a GPU"


async def test_one_failed_line_is_its_error(platform: LocalPlatform, workspace: Workspace) -> None:
    with pytest.raises(DatasetUnreachable) as refusal:
        await check_workspace.fn(workspace, Plan(checks=[FINE, GONE, MINDED]))
    assert (refusal.value.found, refusal.value.fix) == ("dataset: it is gone", "correct it")
    status = await platform.read_status(workspace)
    assert not status.is_true(ConditionType.ACCEPTED)


async def test_of_several_failed_lines_each_is_told_under_the_first_one_s_reason(
    workspace: Workspace,
) -> None:
    with pytest.raises(SecretNotFound) as refusal:
        await check_workspace.fn(workspace, Plan(checks=[SECRET, GONE]))
    assert str(refusal.value) == (
        "secrets: there is none; create it\ndataset: it is gone; correct it"
    )


def test_the_plan_s_table_is_headed_by_the_verdict_and_what_was_not_checked() -> None:
    plan = Plan(checks=[FINE], unchecked=["the rows", "the quota"])
    workspace = tuning_workspace()
    assert _description(workspace, plan) == (
        "Plan of default/tuned: accepted. Not checked: the rows, the quota."
    )
    assert _description(workspace, Plan(checks=[GONE])) == "Plan of default/tuned: refused."
