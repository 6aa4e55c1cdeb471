import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.serving.budget import Budget
from tests.bench.serving.cases import clients_at_once, known_prefix, long_prompt_joins
from tests.bench.serving.prompts import Prompts
from tests.bench.serving.repetitions import measure
from tests.bench.serving.servers import NotStarted, Running
from tests.cluster.ports import free_port
from tests.cluster.test_program import stands_still
from tests.serving import toy


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    return Prompts(toy.make_model(tmp_path_factory.mktemp("model")))


def test_a_server_stands_still_while_others_are_asked(running: Running) -> None:
    with running.turn():
        assert not stands_still(running._program, wanted=False)
    assert stands_still(running._program, wanted=True)


def test_what_a_server_has_used_is_known_after_it_is_gone(running: Running) -> None:
    with running.turn():
        pass
    running.stop()
    running.look()
    assert min(running.peak_rss_mb, running.rss_shared_once_mb) > 5
    assert running.cpu_s > 0
    assert running.ready_s > 0


def test_a_server_that_ends_is_told_with_its_last_words(running: Running, tmp_path: Path) -> None:
    says = [sys.executable, "-c", "print('no such model')"]
    server = replace(running.server, name="broken", command=says, port=free_port())
    broken = Running(server, logs=tmp_path)
    with pytest.raises(NotStarted, match=r"no such model \(.*broken\.log\)"):
        broken.start()


def test_requests_name_the_models_in_turn(running: Running) -> None:
    named = [running.server.body(number, [], 1)["model"] for number in range(3)]
    assert named == ["first", "second", "first"]


def test_each_case_is_measured_in_each_repetition(running: Running, prompts: Prompts) -> None:
    cases = [
        clients_at_once(4, tokens=4, prompts=prompts),
        long_prompt_joins(tokens=8, prompts=prompts),
        known_prefix(requests=3, prompts=prompts),
    ]
    seen: list[object] = []
    measured = measure([running], cases, repetitions=2, budget=Budget(60), after_each=seen.append)
    assert len(seen) == 2
    for case in ("4", "long_prompt_joins", "known_prefix"):
        outcomes = measured.by["stand_in"][case]
        assert [outcome and outcome.failures.total() for outcome in outcomes] == [0, 0]


def test_what_there_is_no_time_for_is_told(running: Running, prompts: Prompts) -> None:
    case = clients_at_once(1, tokens=4, prompts=prompts)
    measured = measure(
        [running], [case], repetitions=1, budget=Budget(0), after_each=lambda _: None
    )
    assert measured.by == {"stand_in": {"1": [None]}}
    [left] = measured.left
    assert left.startswith("stand_in 1, repetition 1: no time")


def test_who_is_not_meant_by_a_case_is_not_asked(running: Running, prompts: Prompts) -> None:
    case = known_prefix(requests=1, prompts=prompts, without=["stand_in"])
    measured = measure(
        [running], [case], repetitions=1, budget=Budget(60), after_each=lambda _: None
    )
    assert measured.by == {"stand_in": {}}
    assert not measured.left
