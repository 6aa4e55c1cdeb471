"""Prefect has what `flows/worker/engine.py` changes; an upgrade that moves it fails here first."""

import inspect
from pathlib import Path

import prefect
import pytest
from prefect import flow_engine
from prefect.flow_engine import AsyncFlowRunEngine

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


def test_sigterm_is_left_alone_while_the_worker_works() -> None:
    original = flow_engine.capture_sigterm  # type: ignore[attr-defined]
    assert "with capture_sigterm():" in inspect.getsource(AsyncFlowRunEngine.initialize_run)
    with engine.many_in_one_process():
        assert flow_engine.capture_sigterm is not original  # type: ignore[attr-defined]
    assert flow_engine.capture_sigterm is original  # type: ignore[attr-defined]


def test_what_is_private_to_prefect_stands_in_one_file() -> None:
    files = Path(inspect.getfile(engine)).parent.glob("*.py")
    others = {file.name: file.read_text() for file in files if file.name != "engine.py"}
    found = [(name, word) for name, text in others.items() for word in PRIVATE if word in text]
    assert [entry for entry in found if f"prefect.{entry[1]}" in others[entry[0]]] == []


def test_prefect_is_the_version_that_this_was_written_against() -> None:
    assert prefect.__version__ == "3.8.8"
