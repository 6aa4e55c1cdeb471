"""Answers are JSON of the schema that was asked for, whatever the model would say."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.serving.running import Running
from tests.serving.test_openai import events_of

pytestmark = pytest.mark.both_engines

SCHEMA = {
    "type": "object",
    "properties": {"cat": {"enum": ["yes", "no"]}, "legs": {"enum": [3, 4]}},
    "required": ["cat", "legs"],
    "additionalProperties": False,
}


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_is_of_its_schema(server: Running, temperature: float) -> None:
    asked = {"response_format": of_schema(SCHEMA), "max_tokens": 200, "temperature": temperature}
    choice = server.chat("the cat", **asked, seed=5).json()["choices"][0]
    answer = json.loads(choice["message"]["content"])
    assert answer["cat"] in ("yes", "no")
    assert answer["legs"] in (3, 4)
    assert choice["finish_reason"] == "stop"


def test_rows_of_one_batch_keep_to_their_own_schemas(server: Running) -> None:
    asked = {"response_format": of_schema(SCHEMA), "max_tokens": 200, "n": 3, "temperature": 1}
    answers = server.chat("the cat", **asked).json()["choices"]
    assert all(json.loads(one["message"]["content"])["legs"] in (3, 4) for one in answers)


def test_a_stream_and_a_text_completion_keep_to_it_too(server: Running) -> None:
    asked = {"response_format": of_schema(SCHEMA), "max_tokens": 200}
    events = events_of(server.chat("the cat", stream=True, **asked))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert json.loads(text)["legs"] in (3, 4)
    body = {"model": "toy", "prompt": "the cat", "temperature": 0, **asked}
    answer = server.client.post("/v1/completions", json=body).json()
    assert json.loads(answer["choices"][0]["text"])["legs"] in (3, 4)


def test_json_of_any_kind_begins_an_object(server: Running) -> None:
    asked = {"response_format": {"type": "json_object"}, "max_tokens": 3}
    said = server.chat("the cat", **asked).json()["choices"][0]["message"]["content"]
    assert said.lstrip().startswith("{")


def test_openais_client_parses_an_answer_into_a_model(server: Running) -> None:
    class Legs(BaseModel):
        has_four: bool

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.parse(
        model="toy",
        messages=[{"role": "user", "content": "the cat"}],
        response_format=Legs,
        max_tokens=200,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Legs)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"response_format": of_schema({"type": "nonsense"})}, "cannot be held to this schema"),
        ({"response_format": of_schema({"enum": ["a" * 70_000]})}, "over 65536 characters"),
        ({"response_format": {"type": "json_schema"}}, "json_schema is given"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": of_schema(SCHEMA), "min_tokens": 3}, "no min_tokens"),
        ({"response_format": of_schema(SCHEMA), "ignore_eos": True}, "no ignore_eos"),
    ],
)
def test_a_format_that_cannot_be_kept_is_refused(
    server: Running, fields: dict[str, Any], told: str
) -> None:
    answer = server.chat("a", **fields)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
