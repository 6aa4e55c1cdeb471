"""Prefect has what `flows/worker/engine.py` changes; an upgrade that moves it fails here first."""

import inspect
import os
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect
import pytest
from prefect import Flow, flow_engine, get_client, results
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.worker import engine
from flows.worker.engine import InProcessEngine

PRIVATE = [
    "_flow_run_suspension",
    "flow_engine",
    "_internal",
    "utilities.engine",
    "prefect.context",
]


@pytest.mark.parametrize(
    "name",
    [
        "heartbeat_seconds",
        "setup_flow_run_suspension_request",
        "begin_run",
        "handle_crash",
        "call_hooks",
    ],
)
def test_what_is_overridden_exists_and_is_called_alike(name: str) -> None:
    theirs, ours = getattr(AsyncFlowRunEngine, name), getattr(InProcessEngine, name)
    if callable(theirs):
        assert list(inspect.signature(theirs).parameters) == list(
            inspect.signature(ours).parameters
        )
    else:
        assert isinstance(ours, type(theirs))


@pytest.mark.parametrize("name", ["_raised", "flow_run", "parameters", "logger"])
def test_the_engine_has_the_field(name: str) -> None:
    assert name in AsyncFlowRunEngine.__dataclass_fields__


def test_the_engine_is_driven_as_prefect_does() -> None:
    theirs = inspect.getsource(flow_engine.run_flow_async)
    loop = theirs[theirs.index("async with engine.start") : theirs.index("    return engine.state")]
    ours = inspect.getsource(engine.drive).replace("  # type: ignore[unused-coroutine]", "")
    assert loop.strip() in ours


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (AsyncFlowRunEngine.initialize_run, "capture_sigterm"),
        (Flow.validate_parameters, "ValidatedFunction"),
        (results._get_default_result_storage, "_read_server_default_result_storage_block_id"),
        (results._aget_default_persist_result, "_aread_server_default_result_storage_block_id"),
    ],
)
async def test_what_is_replaced_for_the_process_is_used_by_name_and_put_back(
    user: Any, name: str, prefect_home: str
) -> None:
    assert re.search(rf"\b{name}\(", inspect.getsource(user))
    module = inspect.getmodule(user)
    original = getattr(module, name)
    async with (
        PrefectClient(prefect_home, auth_string=os.environ["PREFECT_API_AUTH_STRING"]) as client,
        engine.many_in_one_process(client),
    ):
        assert getattr(module, name) is not original
    assert getattr(module, name) is original


async def test_a_run_that_has_just_begun_is_read_once_without_a_request(prefect_home: str) -> None:
    assert "await client.read_flow_run(self.flow_run.id)" in inspect.getsource(
        AsyncFlowRunEngine.setup_run_context
    )
    begun = FlowRun(flow_id=uuid4())
    login = os.environ["PREFECT_API_AUTH_STRING"]
    with temporary_settings({PREFECT_API_URL: prefect_home, PREFECT_API_AUTH_STRING: login}):
        async with engine.shared_client("me"):
            client = get_client()
            engine._just_begun.set(begun)
            assert await client.read_flow_run(begun.id) is begun
            with pytest.raises(ObjectNotFound):
                await client.read_flow_run(begun.id)


def test_what_is_private_to_prefect_stands_in_one_file() -> None:
    files = Path(inspect.getfile(engine)).parent.glob("*.py")
    others = {file.name: file.read_text() for file in files if file.name != "engine.py"}
    found = [(name, word) for name, text in others.items() for word in PRIVATE if word in text]
    assert [entry for entry in found if f"prefect.{entry[1]}" in others[entry[0]]] == []


def test_prefect_is_the_version_that_this_was_written_against() -> None:
    assert prefect.__version__ == "3.8.8"
