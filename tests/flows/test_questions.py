"""The questions that wait in Prefect and the adapters that wait for a word are the same."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from flows.prefect_api import Run
from flows.questions import Ask, History, Withdraw, again, changes, histories_of, question
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord
from tasks.contract.artifacts import PublishedImage
from tasks.contract.workspace import ObjectMeta

NOW = datetime(2026, 1, 1, tzinfo=UTC)
META = ObjectMeta(name="a", uid="1")


def history(*, ends: timedelta = timedelta(days=1)) -> History:
    """A Workspace whose adapter 2 waits for a word."""
    made = AdapterHistory()
    for number in (1, 2):
        image = PublishedImage(reference=f"r.io/a:{number}", digest=f"sha256:{number}")
        made.add(AdapterRecord(number=number, image=image), None)
    made.promote(1, by="run", why="first")
    made.await_word(2, why="better", answer_by=NOW + ends)
    return META, made


def run(state: str, number: int = 2, *, is_time_up: bool = False) -> Run:
    body = question(META, number, is_time_up=is_time_up)
    key = body["idempotency_key"]
    return Run(id=uuid4(), name=body["name"], state_type=state, idempotency_key=key)


def asked(*there: Run, ends: timedelta = timedelta(days=1)) -> list[Any]:
    """Of each change the parameter that tells two questions apart, or the run that goes."""
    told = changes([history(ends=ends)], there, now=NOW)
    return [
        each.body["parameters"]["is_time_up"] if isinstance(each, Ask) else each.run
        for each in told
    ]


def test_what_waits_for_a_word_is_asked_once() -> None:
    assert asked() == [False]
    for state in ("SCHEDULED", "PENDING", "RUNNING", "PAUSED"):
        assert asked(run(state)) == []


def test_a_question_is_about_one_adapter_of_one_workspace() -> None:
    keys = {
        question(meta, number)["idempotency_key"]
        for meta in (META, ObjectMeta(name="a", uid="2"))
        for number in (2, 3)
    }
    assert len(keys) == 4


def test_a_question_goes_when_its_adapter_s_fate_is_decided_or_its_workspace_is_gone() -> None:
    older = run("PAUSED", 1)
    assert asked(run("PAUSED"), older) == [older]
    waits = run("PAUSED")
    assert changes([], [waits], now=NOW) == [Withdraw(run=waits)]


def test_what_is_being_carried_out_is_left_to_end() -> None:
    assert changes([], [run("RUNNING"), run("SCHEDULED")], now=NOW) == []


def test_when_the_time_is_up_nobody_is_asked_any_more() -> None:
    over = timedelta(seconds=-1)
    assert asked(ends=over) == [True]
    assert asked(run("PAUSED"), ends=over) == [True]
    assert asked(run("PAUSED"), run("RUNNING", is_time_up=True), ends=over) == []


def test_a_word_that_was_given_in_time_counts_however_long_it_takes() -> None:
    assert asked(run("SCHEDULED"), ends=timedelta(days=-1)) == []


def ended(*minutes_ago: float) -> list[Run]:
    """Runs of one question that ended so long ago without a word, the last first."""
    runs: list[Run] = []
    body = question(META, 2)
    for ago in reversed(minutes_ago):
        then = NOW - timedelta(minutes=ago)
        asked = again(body, runs, now=then)
        assert asked
        runs.append(
            Run(
                id=uuid4(),
                name=body["name"],
                state_type="CANCELLED",
                idempotency_key=asked["idempotency_key"],
                state={"timestamp": then.isoformat()},
            )
        )
    return runs[::-1]


def is_asked_again(*minutes_ago: float) -> bool:
    return again(question(META, 2), ended(*minutes_ago), now=NOW) is not None


def test_what_was_cancelled_is_asked_again_each_time_twice_as_long_later() -> None:
    assert [is_asked_again(0.9), is_asked_again(1.1)] == [False, True]
    assert [is_asked_again(1.9, 9), is_asked_again(2.1, 9)] == [False, True]
    assert [is_asked_again(3.9, 9, 18), is_asked_again(4.1, 9, 18)] == [False, True]


def test_what_fails_for_ever_is_asked_once_a_day_in_the_end() -> None:
    day = 24 * 60
    older = [day * each for each in range(2, 30)]
    assert [is_asked_again(day - 60, *older), is_asked_again(day, *older)] == [False, True]


def test_a_question_that_is_asked_again_is_a_run_of_its_own_whichever_were_deleted() -> None:
    runs = ended(9, 18)
    third = again(question(META, 2), runs, now=NOW)
    assert third
    assert third["idempotency_key"] not in {each.idempotency_key for each in runs}
    assert again(question(META, 2), runs[:1], now=NOW) == third


def test_a_question_that_is_asked_again_waits_and_goes_as_the_first_one_does() -> None:
    second = ended(9, 18)[0].model_copy(update={"state_type": "PAUSED"})
    assert asked(second) == []
    assert changes([], [second], now=NOW) == [Withdraw(run=second)]


def test_of_a_cluster_s_workspaces_those_are_read_that_wait() -> None:
    _, adapters = history()
    kept = {"adapters": adapters.model_dump(mode="json", by_alias=True)}
    metadata = {"name": "a", "namespace": "default", "uid": "1"}
    waits = {"metadata": metadata, "status": kept}
    [(meta, found)] = histories_of(
        [
            waits,
            {"metadata": metadata},
            {"metadata": metadata, "status": {"adapters": {"records": [7]}}},
            {"metadata": metadata | {"deletionTimestamp": "now"}, "status": kept},
        ]
    )
    assert (meta.uid, found.waiting and found.waiting.number) == ("1", 2)
