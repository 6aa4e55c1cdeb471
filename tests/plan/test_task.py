"""A plan becomes an acceptance, or a refusal with every line that stops the run."""

from pathlib import Path

import pytest

from tasks import steps
from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import DatasetUnreachable, SecretNotFound
from tasks.contract.status import ConditionType
from tasks.contract.workspace import Manifests, Workspace
from tasks.plan.task import _description, check_workspace
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
