"""What the server says of itself at /openapi.json, held to what it takes and answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator

from serving.app import create_app
from serving.metrics import Metrics
from serving.routes.document import describe
from serving.server import Server
from tasks.contract.programs.serving import ServerConfig
from tests.serving.hot import KEY
from tests.serving.running import Running
from tests.serving.test_clients import (
    LANGCHAIN,
    LITELLM,
    MESSAGES,
    OPEN_WEBUI,
    OPENAI_PYTHON,
    VLLM_BENCH,
)

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TURNS = [
    {"role": "user", "content": "a"},
    {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}", "id": "fc_1"},
    {"type": "function_call_output", "call_id": "1", "output": "7"},
]
TAKEN: list[tuple[str, dict[str, Any]]] = [
    *((CHAT, body) for body in (OPENAI_PYTHON, LANGCHAIN, OPEN_WEBUI, LITELLM, VLLM_BENCH)),
    (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "max_tokens": 2}),
    (TEXT, {"prompt": "the cat", "max_tokens": 2, "logprobs": 1, "stop": "x", "suffix": None}),
    (TEXT, {"prompt": ["a", [5, 6]], "max_tokens": 2, "stop": ["x", "y"]}),
    (RESPONSES, {"input": "the cat", "max_output_tokens": 2, "store": False, "top_logprobs": 1}),
    (RESPONSES, {"input": TURNS[:1], "text": {"verbosity": "medium"}, "max_output_tokens": 2}),
    ("/chat", {"prompt": "the cat", "max_new_tokens": 2, "num_beams": 1}),
    ("/chat", {"messages": MESSAGES, "generate_kwargs": {"stop_strings": "x", "max_length": 30}}),
    ("/tokenize", {"prompt": "the cat"}),
    ("/tokenize", {"messages": MESSAGES, "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6]}),
]
REFUSED = [
    (CHAT, {"messages": MESSAGES, "n": 1.5}),
    (CHAT, {"messages": MESSAGES, "n": 17}),
    (CHAT, {"messages": MESSAGES, "seed": 2**63}),
    (CHAT, {"messages": MESSAGES, "top_k": -2}),
    (TEXT, {"prompt": "a", "max_tokens": 0}),
    (TEXT, {"prompt": "a", "logprobs": 21}),
    (CHAT, {"messages": []}),
    (CHAT, {"messages": MESSAGES, "functions": [{"name": "look"}]}),
    (TEXT, {"prompt": "a", "tempreature": 1}),
    (RESPONSES, {"input": "a", "store": True}),
    (RESPONSES, {"input": "a", "max_tokens": 1}),
    ("/detokenize", {"tokens": ["a"]}),
]
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(server: Running) -> Document:
    told: Document = server.client.get("/openapi.json").json()
    return told


def faults(document: Document, schema: Document, value: object) -> list[str]:
    """What of a value its schema does not take."""
    rooted = schema | {"components": document["components"]}
    return [error.message for error in Draft202012Validator(rooted).iter_errors(value)]


def schema_of(content: Document) -> Document:
    schema: Document = content["content"]["application/json"]["schema"]
    return schema


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "$ref")
        for each in value.values():
            yield from references(each)
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_endpoint_is_in_it(tmp_path: Path, document: Document) -> None:
    app = create_app(Server(ServerConfig(weights_dir=tmp_path, served_model_name="m"), Metrics()))
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    paths = {route.path_format.rstrip("/") or "/" for route in routes}
    assert paths - {"/openapi.json"} == document["paths"].keys()


def test_all_that_it_refers_to_is_there(document: Document) -> None:
    schemas = document["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(document)} <= schemas.keys()
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "body"), TAKEN)
def test_what_it_says_is_taken_and_answered_so(
    server: Running, document: Document, path: str, body: dict[str, Any]
) -> None:
    told = document["paths"][path]["post"]
    assert not faults(document, schema_of(told["requestBody"]), body)
    answer = server.client.post(path, json=body | {"model": "toy"})
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        assert not faults(document, schema_of(told["responses"]["200"]), answer.json())


def test_calls_and_what_tools_answered_are_items_that_it_tells(document: Document) -> None:
    schema = schema_of(document["paths"][RESPONSES]["post"]["requestBody"])
    assert not faults(document, schema, {"input": TURNS})
    assert faults(document, schema, {"input": [*TURNS, {"type": "reasoning"}]})


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_what_it_says_is_not_taken_is_refused_in_the_shape_that_it_tells(
    server: Running, document: Document, path: str, body: dict[str, Any]
) -> None:
    told = document["paths"][path]["post"]
    assert faults(document, schema_of(told["requestBody"]), body)
    refused = server.client.post(path, json=body)
    assert refused.status_code == 400
    assert not faults(document, schema_of(told["responses"]["4XX"]), refused.json())


@pytest.mark.parametrize("path", ["/health", "/live", "/v1/models", "/v1/models/first"])
def test_what_is_read_is_answered_so(server: Running, document: Document, path: str) -> None:
    named = path.replace("first", "{name}")
    schema = schema_of(document["paths"][named]["get"]["responses"]["200"])
    assert not faults(document, schema, server.client.get(path).json())


def test_what_an_administrator_reads_is_answered_so(hot: Running) -> None:
    document = hot.client.get("/openapi.json").json()
    told = document["paths"]["/admin/adapters"]["get"]
    schema = schema_of(told["responses"]["200"])
    assert not faults(document, schema, hot.client.get("/admin/adapters", headers=KEY).json())
    assert told["security"] == [{"adminKey": []}]


def test_keys_are_asked_for_where_the_server_asks_for_them(tmp_path: Path) -> None:
    app = create_app(Server(ServerConfig(weights_dir=tmp_path, served_model_name="m"), Metrics()))
    keyed, open_ = (describe(app, asks_for_keys=asks)["paths"] for asks in (True, False))
    assert keyed[CHAT]["post"]["security"] == [{"userKey": []}]
    assert keyed["/health"]["get"]["security"] == []
    assert open_[CHAT]["post"]["security"] == []


async def test_it_is_there_before_the_model_is_and_needs_no_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann secret\n")
    config = ServerConfig(weights_dir=tmp_path, served_model_name="m", user_keys_file=keys)
    transport = httpx2.ASGITransport(app=create_app(Server(config, Metrics())))

    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/openapi.json")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/pooling"])
def test_what_only_other_models_can_do_is_refused_with_where_to_ask(
    server: Running, path: str
) -> None:
    refused = server.client.post(path, json={"input": "a", "model": "toy"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "not_found")
    assert f"POST {path} was asked for" in error["message"]
    assert error["message"].endswith("ask a server of an embedding model")


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/responses/resp_1"])
def test_an_endpoint_that_is_not_there_is_told_with_where_to_look(
    server: Running, path: str
) -> None:
    error = server.client.post(path, json={"input": "a"}).json()["error"]
    assert path in error["message"]
    assert "no such endpoint; GET /openapi.json lists" in error["message"]
    assert error["code"] == "not_found"
