"""A judge is asked for each answer, over HTTP; what is no grade, and whoever is away, is told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.contract.errors import AddressForbidden, JudgeUnavailable, JudgeUnusable
from tasks.contract.judge import Judge
from tasks.contract.programs.evaluation import EvaluationConfig
from tasks.evaluation.pod.judging import Graded, grades, read_grade
from tasks.remote.judge_server import JudgeServer
from tests.dataset.web import Handler, Web, running_web

PATH = "/v1/chat/completions"
ANSWERS = [
    Graded(question="What is 1 + 1?", expected="2", text=text) for text in ("two", "three", "2")
]


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as web:
        yield web


def config(web: Web, **changes: object) -> EvaluationConfig:
    given: dict[str, object] = {
        "weights_dir": Path("/w"),
        "rows_file": Path("/r"),
        "candidate": Path("/c"),
        "method": "lora",
        "judge": Judge(url=f"{web.address}/v1", model="strict-7b"),
        "allow_local_addresses": True,
    }
    return EvaluationConfig(**given | changes)  # type: ignore[arg-type]


def says(*replies: str) -> list[Callable[[Handler], None]]:
    def answer(reply: str) -> Callable[[Handler], None]:
        body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        return lambda handler: handler.answer(200, body)

    return [answer(reply) for reply in replies]


def refuses(status: int, said: str = "") -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, said.encode())


def grading(handler: Handler) -> None:
    """Gives an answer ten where it is the expected one, and none where it is `three`."""
    asked = json.loads(handler.body())
    assert (asked["model"], asked["temperature"]) == ("strict-7b", 0)
    told = asked["messages"][-1]["content"]
    assert "<question>\nWhat is 1 + 1?\n</question>" in told
    assert "<expected>\n2\n</expected>" in told
    given = {"two": "8", "three": "0", "2": "10"}
    [grade] = [given[text] for text in given if f"<answer>\n{text}\n</answer>" in told]
    says(grade)[0](handler)


def test_each_answer_has_its_grade_in_the_order_of_the_answers(web: Web) -> None:
    web.serve(PATH, grading)
    graded: list[None] = []
    found = grades(config(web), ANSWERS, done=lambda: graded.append(None))
    assert found == (0.8, 0.0, 1.0)
    assert len(graded) == 3


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("7", 0.7),
        (" **10** ", 1.0),
        ("Grade: 8/10.", 0.8),
        ("<think>6? No, 9.</think>\n3", 0.3),
        ("7.5", 0.75),
        ("0", 0.0),
        ("between 6 and 8", None),
        ("11", None),
        ("-1", None),
        ("good", None),
        ("", None),
    ],
)
def test_a_grade_is_the_one_number_in_a_reply(reply: str, grade: float | None) -> None:
    assert read_grade(reply) == grade


def test_who_says_no_grade_is_asked_once_more(web: Web) -> None:
    web.serve(PATH, *says("good", "9"))
    assert grades(config(web), ANSWERS[:1]) == (0.9,)
    web.serve(PATH, *says("good"))
    with pytest.raises(JudgeUnusable, match="said no grade from 0 to 10: 'good'"):
        grades(config(web), ANSWERS[:1])


def test_a_model_that_takes_no_temperature_is_asked_without_one(web: Web) -> None:
    def asked(handler: Handler) -> None:
        if "temperature" in json.loads(handler.body()):
            return handler.answer(400, b"temperature is not supported")
        return says("9")[0](handler)

    web.serve(PATH, asked)
    assert grades(config(web), ANSWERS[:1]) == (0.9,)


def test_a_judge_that_is_away_is_asked_again_until_that_is_enough(web: Web) -> None:
    web.serve(PATH, refuses(503), refuses(429), *says("9"))
    assert grades(config(web), ANSWERS[:1], waits_s=(0, 0)) == (0.9,)
    web.serve(PATH, refuses(503, "loading"))
    with pytest.raises(JudgeUnavailable, match="HTTP 503 loading") as away:
        grades(config(web), ANSWERS[:1], waits_s=(0,))
    # Another pod would train the candidate once more.
    assert not away.value.retryable


def test_its_key_is_sent_and_never_told(web: Web, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary\n")
    web.serve(PATH, refuses(401, "wrong key canary"))
    with pytest.raises(JudgeUnusable, match=r"HTTP 401 wrong key \*\*\*; correct") as refused:
        grades(config(web, judge_key_file=tmp_path / "key"), ANSWERS[:1])
    assert "canary" not in str(refused.value)
    sent = {name.lower(): value for name, value in web.asked[0].items()}
    assert sent["authorization"] == "Bearer canary"


def test_a_key_that_is_not_there_is_none(web: Web, tmp_path: Path) -> None:
    web.serve(PATH, *says("9"))
    assert grades(config(web, judge_key_file=tmp_path / "key"), ANSWERS[:1]) == (0.9,)
    assert "authorization" not in {name.lower() for name in web.asked[0]}


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b"[]"])
def test_what_is_no_answer_of_openai_s_is_told(web: Web, body: bytes) -> None:
    web.serve_bytes(PATH, body)
    with pytest.raises(JudgeUnusable, match="it said"):
        grades(config(web), ANSWERS[:1])


def test_a_private_address_is_asked_only_where_that_is_allowed(web: Web) -> None:
    with pytest.raises(AddressForbidden, match="KAITOFLOW_ALLOW_LOCAL_ADDRESSES"):
        grades(config(web, allow_local_addresses=False), ANSWERS[:1])
    assert web.asked == []


@pytest.mark.parametrize(
    ("body", "models"),
    [(b'{"data": [{"id": "a"}, {"id": "b"}]}', ["a", "b"]), (b"{}", None), (b"<html>", None)],
)
def test_the_models_of_a_judge_are_those_that_it_lists(
    web: Web, body: bytes, models: list[str] | None
) -> None:
    web.serve_bytes("/v1/models", body)
    judge = Judge(url=f"{web.address}/v1", model="strict-7b")
    with JudgeServer(judge, allow_local_addresses=True) as server:
        assert server.models() == models
