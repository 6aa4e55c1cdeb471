"""KAITO's /chat."""

import json
from typing import Any

import pytest

from tests.serving.running import Running

pytestmark = pytest.mark.both_engines

SHORT = {"max_new_tokens": 8}
UNSUPPORTED = (
    "generate_kwargs.num_beams was asked for, this server does not support it; leave it out"
)
UNKNOWN = "generate_kwargs.warmth is no option of this endpoint; check the spelling or leave it out"


def result_of(server: Running, **body: Any) -> str:
    response = server.client.post("/chat", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["Result"])


def test_a_prompt_is_asked_as_a_users_turn(server: Running) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    asked = result_of(server, prompt="the cat", generate_kwargs=SHORT)
    assert asked == result_of(server, messages=messages, generate_kwargs=SHORT)


def test_curl_with_its_usual_content_type_is_understood(server: Running) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps({"prompt": "the cat", "generate_kwargs": SHORT})
    response = server.client.post("/chat", content=body, headers=headers)
    assert response.json() == {"Result": result_of(server, prompt="the cat", generate_kwargs=SHORT)}


def test_options_may_stand_beside_the_prompt(server: Running) -> None:
    nested = result_of(server, prompt="the cat", generate_kwargs=SHORT)
    assert result_of(server, prompt="the cat", **SHORT) == nested


def test_the_full_text_begins_with_prefix_and_prompt(server: Running) -> None:
    body = {"prompt": "cat", "prefix": "the ", "generate_kwargs": SHORT}
    full = result_of(server, return_full_text=True, **body)
    assert full == "the cat" + result_of(server, **body)


def test_max_length_counts_the_prompt(server: Running) -> None:
    prompt_tokens = len(
        server.engine.prompts.encode_chat([{"role": "user", "content": "the cat"}], model="first")
    )
    longer = result_of(server, prompt="the cat", max_length=prompt_tokens + 8)
    assert longer == result_of(server, prompt="the cat", **SHORT)


def test_a_hole_makes_room_for_the_answer(server: Running) -> None:
    body = {"prompt": "the cat " * 4000, "generate_kwargs": SHORT}
    assert server.client.post("/chat", json=body).status_code == 400
    assert result_of(server, handle_long_generation="hole", **body)


def test_what_kaitos_examples_send_is_taken(server: Running) -> None:
    options = {
        "max_length": 60,
        "min_length": 0,
        "do_sample": True,
        "early_stopping": False,
        "num_beams": 1,
        "temperature": 1.0,
        "top_k": 10,
        "top_p": 1,
        "typical_p": 1,
        "repetition_penalty": 1,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    result_of(server, prompt="the cat", return_full_text=True, generate_kwargs=options)


@pytest.mark.parametrize(
    "ids", [[-1], [-99999], [999_999_999], int("9" * 40), [0, 321], list(range(320))]
)
def test_a_token_that_the_model_has_not_is_refused(server: Running, ids: Any) -> None:
    options = {"max_new_tokens": 4, "min_new_tokens": 2, "eos_token_id": ids}
    response = server.client.post("/chat", json={"prompt": "a", "generate_kwargs": options})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "generate_kwargs.eos_token_id"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"prompt": "a", "generate_kwargs": {"warmth": 2}},
            "generate_kwargs.warmth",
            UNKNOWN,
        ),
        (
            {"prompt": "a", "generate_kwargs": {"num_beams": 4}},
            "generate_kwargs.num_beams",
            UNSUPPORTED,
        ),
        ({}, None, "give either prompt or messages"),
        ({"prompt": "a", "messages": []}, "messages", None),
        ({"prompt": 1}, "prompt", None),
        ({"prompt": "a", "generate_kwargs": 3}, "generate_kwargs", None),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: Running, body: dict[str, Any], param: str | None, message: str | None
) -> None:
    response = server.client.post("/chat", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert message in (None, error["message"])
