"""What becomes of runs on a real Prefect server: of cancelled questions, of killed commands."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from flows import questions
from flows.own_runs import cancel_own_runs
from flows.prefect_api import PrefectApi, Run
from flows.questions import APPROVE_FLOW, History, ask, ensure_questions, question
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord
from tasks.contract.artifacts import PublishedImage
from tasks.contract.workspace import ObjectMeta
from tests.flows import prefect

POOL = "asks"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def api(prefect_home: str) -> AsyncIterator[PrefectApi]:
    """A server that has the deployment of `approve-adapter`, and no worker that takes its runs."""
    flow = prefect.ask("POST", f"{prefect_home}/flows/", json={"name": APPROVE_FLOW}).json()
    made = {"name": POOL, "flow_id": flow["id"]}
    prefect.ask("POST", f"{prefect_home}/deployments/", json=made).raise_for_status()
    async with PrefectApi({**os.environ, "PREFECT_API_URL": prefect_home}) as api:
        yield api


def waiting() -> History:
    """A Workspace whose adapter 2 waits for a word."""
    made = AdapterHistory()
    for number in (1, 2):
        image = PublishedImage(reference=f"r.io/a:{number}", digest=f"sha256:{number}")
        made.add(AdapterRecord(number=number, image=image), None)
    made.promote(1, by="run", why="first")
    made.await_word(2, why="better", answer_by=datetime.now(UTC) + timedelta(days=1))
    return ObjectMeta(name="asked", uid=str(uuid4())), made


def set_state(address: str, run: Run, **state: Any) -> None:
    url = f"{address}/flow_runs/{run.id}/set_state"
    prefect.ask("POST", url, json={"state": state}).raise_for_status()


async def asked(api: PrefectApi, history: History) -> list[Run]:
    """The runs that ask about the adapter, once it was looked at, the latest first."""
    await ensure_questions(api, POOL, [history])
    return await api.runs_with(question(history[0], 2)["tags"])


async def test_a_question_that_a_person_cancels_is_asked_again_later(
    api: PrefectApi, prefect_home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_ASK_AGAIN_S", 3600.0)  # the server may be slow, too
    history = waiting()
    [first] = await asked(api, history)
    set_state(prefect_home, first, type="PENDING")
    set_state(prefect_home, first, type="RUNNING")
    suspended = {"pause_reschedule": True, "pause_timeout": "2099-01-01T00:00:00Z"}
    set_state(prefect_home, first, type="PAUSED", name="Suspended", state_details=suspended)
    assert [run.state_type for run in await asked(api, history)] == ["PAUSED"]
    set_state(prefect_home, first, type="CANCELLING")  # as the page's menu has it
    assert [run.state_type for run in await asked(api, history)] == ["CANCELLED"]
    assert await ask(api, POOL, question(history[0], 2)) is None

    monkeypatch.setattr(questions, "_ASK_AGAIN_S", 0.0)
    second, before = sorted(await asked(api, history), key=lambda run: run.id == first.id)
    assert (second.state_type, before.id) == ("SCHEDULED", first.id)
    assert len(await asked(api, history)) == 2
    linked = await ask(api, POOL, question(history[0], 2))
    assert linked
    assert linked.id == second.id


async def test_runs_of_a_command_are_ended_whatever_their_state(
    api: PrefectApi, prefect_home: str
) -> None:
    tag = f"command:{uuid4().hex[:12]}"
    deployment = await api.deployment_id(APPROVE_FLOW, POOL)
    for number, states in enumerate((["RUNNING"], ["RUNNING", "CRASHED"], ["COMPLETED"])):
        made = await api.create_run(deployment, {"name": f"{number}", "tags": [tag]})
        for state in ("PENDING", *states):
            set_state(prefect_home, made, type=state)
    [under_way] = await api.alive_runs(tag)
    assert under_way.name == "0"
    await api.end(under_way, "CRASHED", message="its command was killed")
    assert await api.alive_runs(tag) == []
    await cancel_own_runs(api, tag)
    found = {run.name: (run.state_type, run.said) for run in await api.runs_with([tag])}
    assert found == {
        "0": ("CANCELLED", "stopped by the user"),
        "1": ("CANCELLED", "stopped by the user"),
        "2": ("COMPLETED", ""),
    }


async def test_who_ended_a_run_is_told_after_its_worker_has_had_the_last_word(
    api: PrefectApi, prefect_home: str
) -> None:
    (begun,) = await asked(api, waiting())
    set_state(prefect_home, begun, type="RUNNING", name="Running")
    await api.set_state(begun, "CANCELLING", message="stopped here")
    set_state(prefect_home, begun, type="CANCELLED", name="Cancelled", message="by its worker")
    said = await api.said_by(begun)
    assert said[-2:] == ["stopped here", "by its worker"]
