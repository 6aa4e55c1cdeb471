"""Whatever is wrong at the edge of the command line is told in one sentence, with a right code."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from flows.__main__ import main
from flows.prefect_api import PrefectApi
from flows.prefect_server import _CLIENT_SETTINGS, _refusal, prefect_server
from tasks.contract.errors import PrefectUnavailable
from tasks.platform.current import current_platform, local_platform
from tasks.settings import settings

USAGE, REFUSED = 2, 3
Edge = Callable[..., tuple[int, str]]


@pytest.fixture
def edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Edge:
    """The command line in this process: its exit code, and all that it wrote."""
    caches = (settings, current_platform, local_platform)
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path / "home"))
    # What a command line sets for its process is not of the tests that come after.
    monkeypatch.setattr("os.umask", lambda _mask: 0)
    monkeypatch.setattr("signal.signal", lambda _number, _handler: None)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setattr("flows.__main__.keep_secrets_out_of_logs", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["kaitoflow", *arguments])
        for cache in caches:
            cache.cache_clear()
        try:
            return main(), " ".join("".join(capsys.readouterr()).split())
        finally:
            for cache in caches:
                cache.cache_clear()

    return run


WRONG_SETTINGS = [
    ("PLATFORM", "Local", "KAITOFLOW_PLATFORM is 'Local', it must be 'local' or 'kubernetes'"),
    ("GARBAGE_GRACE_S", "ten", "KAITOFLOW_GARBAGE_GRACE_S is 'ten', it must be a valid number"),
    ("MAX_NODES", "0", "KAITOFLOW_MAX_NODES is '0', it must be greater than or equal to 1"),
    ("POD_LABELS", "team=ml", "KAITOFLOW_POD_LABELS is no JSON (Expecting value"),
    ("POD_LABELS", "[]", "KAITOFLOW_POD_LABELS is [], it must be a valid dictionary"),
    ("SERVER_CORS_ORIGINS", '["x"]', "environment; KAITOFLOW_SERVER_CORS_ORIGINS names 'x'; brow"),
    ("PROVISIONER", "aks", "KAITOFLOW_PROVISIONER=aks was asked for; pods run on platform local"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG_SETTINGS)
def test_a_variable_that_cannot_be_used_is_named_with_what_it_may_be(
    edge: Edge, name: str, value: str, words: str
) -> None:
    code, said = edge("get", **{f"KAITOFLOW_{name}": value})
    assert (code, said.split(":")[0]) == (REFUSED, "InvalidSettings")
    assert words in said


def test_a_variable_of_the_worker_is_named_as_well(edge: Edge) -> None:
    code, said = edge("worker", KAITOFLOW_WORKER_LIMIT="many")
    assert (code, said.split(":")[0]) == (REFUSED, "InvalidSettings")
    assert "KAITOFLOW_WORKER_LIMIT is 'many', it must be a valid integer" in said


WORKSPACE = """apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: w1}
resource: {instanceType: Standard_NC4as_T4_v3, labelSelector: {matchLabels: {app: w1}}}
tuning:
  preset: {name: smollm2-135m-instruct}
  method: lora
  config: cm1
  input: {urls: ["file:rows.parquet"]}
  output: {image: "registry.example.com/a/w1:1", imagePushSecret: creds}
"""
CONFIG_MAP = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm1}\n"
NO_NAME = "it has no metadata.name, or none that is text; give it the name by which"
BROKEN_FILES = {
    "an open bracket": ("a: [", "found line 1: "),
    "a byte that no text has": ("a: \x01", "found unacceptable character #x0001"),
    "a date that there is not": (f"{WORKSPACE}x: 2026-13-01\n", "found line 11: '2026-13-01' can"),
    "brackets without end": ("[" * 500, "found it is nested too deep"),
    "a key of the Workspace twice": (
        f"{WORKSPACE}  method: qlora\n",
        "found line 11: method is given twice, first in line 7; correct the text",
    ),
    "a Workspace without metadata": (
        WORKSPACE.replace("{name: w1}", "null"),
        "metadata: missing",
    ),
    "a Workspace without a name": (WORKSPACE.replace("name: w1", ""), "metadata.name: missing"),
    "a ConfigMap without metadata": (f"{WORKSPACE}---\nkind: ConfigMap\n", NO_NAME),
    "a ConfigMap whose metadata is null": (
        f"{WORKSPACE}---\nkind: ConfigMap\nmetadata: null\n",
        NO_NAME,
    ),
    "a Secret without a name": (f"{WORKSPACE}---\nkind: Secret\nmetadata: {{}}\n", NO_NAME),
    "a ConfigMap twice": (
        f"{WORKSPACE}{CONFIG_MAP}{CONFIG_MAP}",
        "asked to read ConfigMap cm1; it is there twice; keep one",
    ),
    "a bar forgotten": (
        f"{WORKSPACE}{CONFIG_MAP}data:\n  training_config.yaml:\n    training_config: {{}}\n",
        "ConfigMap cm1: training_config.yaml must be text; put | after it",
    ),
    "quotes forgotten": (
        f"{WORKSPACE}{CONFIG_MAP}data: {{a: 1}}",
        "ConfigMap cm1: a must be text; put it in quotes",
    ),
    "a name that is a number": (
        f"{WORKSPACE}{CONFIG_MAP}data: {{1: a}}",
        "ConfigMap cm1: the name 1 must be text; put it in quotes",
    ),
    "data that is a text": (
        f"{WORKSPACE}{CONFIG_MAP}data: hidden",
        "ConfigMap cm1: data must hold names, each with a text; indent them below data",
    ),
    "a Secret's data as a list": (
        f"{WORKSPACE}---\nkind: Secret\nmetadata: {{name: s1}}\nstringData: [hidden]\n",
        "Secret s1: stringData must hold names, each with a text",
    ),
    "a key of the ConfigMap twice": (
        f"{WORKSPACE}{CONFIG_MAP}data: {{a: x, a: y}}",
        "found line 15: a is given twice, first in line 15",
    ),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("what", BROKEN_FILES)
def test_a_file_that_is_broken_is_refused_with_the_line(
    edge: Edge, tmp_path: Path, command: str, what: str
) -> None:
    text, words = BROKEN_FILES[what]
    (tmp_path / "w.yaml").write_text(text)
    code, said = edge(command, "w.yaml")
    assert (code, said.split(":")[0]) == (REFUSED, "InvalidWorkspace")
    assert words in said
    assert "hidden" not in said


def test_a_file_that_cannot_be_read_is_named(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name, found in {"nowhere": "No such", "folder": "Is a dir", "latin": "'utf-8'"}.items():
        code, said = edge("plan", name)
        assert (code, said.split(";")[0]) == (REFUSED, f"InvalidWorkspace: {name} was asked for")
        assert found in said


@pytest.mark.parametrize("command", [("run", "f"), ("plan", "f"), ("worker",)])
@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_there_is_not_is_wrong_usage(
    edge: Edge, command: tuple[str, ...], port: int
) -> None:
    code, said = edge(*command, "--port", str(port))
    assert code == USAGE
    assert f'Invalid value "{port}" for ' in said
    assert "--port" in said
    assert "A port is a number from 0 to 65535." in said


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_closed_stops_no_command(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert edge("get")[0] == 0
    getattr(sys, stream).close()


def test_a_reader_that_has_gone_is_no_error(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:  # noqa: PTH123  a descriptor has no path
        monkeypatch.setattr(sys, "stdout", pipe)
        assert edge("get") == (0, "")
        pipe.write("what comes after goes nowhere")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9/api", "/health did not answer within 0.1 s: ConnectError"),
        ("foo", "that is no address of a server"),
        ("http://host:port/api", "that is no address of a server"),
        ("ftp://host/api", "that is no address of a server"),
    ],
)
def test_a_prefect_server_that_is_not_there_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    for name in _CLIENT_SETTINGS:
        monkeypatch.setenv(name, "")
    with pytest.raises(PrefectUnavailable) as raised, prefect_server(patience_s=0.1):
        pass
    assert raised.value.asked.endswith(f"that PREFECT_API_URL names, {address}")
    assert words in raised.value.found
    assert "unset the variable" in raised.value.fix


@pytest.mark.parametrize(("status", "answers"), [(200, True), (401, True), (404, False)])
def test_a_server_that_wants_a_key_is_there_and_another_kind_of_server_is_not(
    status: int, *, answers: bool
) -> None:
    assert (_refusal(httpx2.Response(status)) == "") is answers


async def test_an_address_that_is_none_is_asked_once() -> None:
    with pytest.raises(PrefectUnavailable, match="the address is none"):
        async with PrefectApi({"PREFECT_API_URL": "http://host:port/api"}, waits_s=(60,)) as api:
            await api.crashed_runs()
