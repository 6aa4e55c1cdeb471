"""Settings are read from KAITOFLOW_* variables, and refused where they contradict each other."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.settings import Settings, settings

# What README, the chart's values and the plan promise.
PROMISED = {
    "namespace": "default",
    "namespaces": (),
    "launch_timeout_s": 300,
    "register_timeout_s": 900,
    "gpu_timeout_s": 600,
    "capacity_wait_s": 24 * 3600,
    "max_nodes": 100,
    "garbage_grace_s": 600,
    "node_ready_timeout_s": 600,
    "allow_local_addresses": False,
    "azure_manages_gpus": True,
    "job_timeout_s": 7 * 24 * 3600,
    "step_silence_timeout_s": 2 * 3600,
    "push_denied_patience_s": 3600,
    "gate_command_timeout_s": 3600,
    "allow_commands": False,
    "server_ready_timeout_s": 300,
    "server_max_concurrency": None,
    "server_max_queue": 64,
    "server_max_context_tokens": None,
    "server_max_loaded_adapters": None,
    "server_cors_origins": (),
    "server_asks_for_keys": False,
    "plan_timeout_s": 3,
    "stop_grace_s": 20,
    "watcher_timeout_s": 20,
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's are."""
    import os

    for name in [name for name in os.environ if name.startswith("KAITOFLOW_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "origin", ["chat.example.com", "https://chat.example.com/", "https://*.example.com", "null", ""]
)
def test_an_origin_that_no_browser_sends_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("KAITOFLOW_SERVER_CORS_ORIGINS", json.dumps([origin]))
    with pytest.raises(ValidationError, match="write it so, without a path"):
        Settings()


def test_what_nobody_has_set_is_as_promised() -> None:
    given = Settings()
    assert {name: getattr(given, name) for name in PROMISED} == PROMISED


@pytest.mark.parametrize(
    ("provisioner", "platform"),
    [("local", "kubernetes"), ("byo", "local"), ("karpenter", "local"), ("aks", "local")],
)
def test_nodes_that_are_not_where_pods_run_are_refused(
    monkeypatch: pytest.MonkeyPatch, provisioner: str, platform: str
) -> None:
    monkeypatch.setenv("KAITOFLOW_PROVISIONER", provisioner)
    monkeypatch.setenv("KAITOFLOW_PLATFORM", platform)
    with pytest.raises(ValidationError, match=f"={provisioner} was asked for; .* leave it unset"):
        Settings()


@pytest.mark.parametrize(
    ("provisioner", "platform"), [("local", "local"), ("aks", "kubernetes"), ("byo", "kubernetes")]
)
def test_nodes_where_pods_run_are_taken(
    monkeypatch: pytest.MonkeyPatch, provisioner: str, platform: str
) -> None:
    monkeypatch.setenv("KAITOFLOW_PROVISIONER", provisioner)
    monkeypatch.setenv("KAITOFLOW_PLATFORM", platform)
    assert Settings().provisioner == provisioner


# Above nothing, however little.
TIMES = (
    "launch_timeout_s",
    "register_timeout_s",
    "gpu_timeout_s",
    "capacity_wait_s",
    "node_ready_timeout_s",
    "step_silence_timeout_s",
    "push_denied_patience_s",
    "gate_command_timeout_s",
    "server_ready_timeout_s",
    "plan_timeout_s",
    "stop_grace_s",
    "watcher_timeout_s",
)
LEAST = {
    "max_nodes": 1,
    "garbage_grace_s": 0,
    "job_timeout_s": 60,
    "server_max_concurrency": 1,
    "server_max_queue": 0,
    "server_max_context_tokens": 2,
    "server_max_loaded_adapters": 1,
}


@pytest.mark.parametrize("name", TIMES)
def test_no_time_at_all_is_refused_and_a_short_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"KAITOFLOW_{name.upper()}", "0")
    with pytest.raises(ValidationError, match=name):
        Settings()
    monkeypatch.setenv(f"KAITOFLOW_{name.upper()}", "0.5")
    assert getattr(Settings(), name) == 0.5


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_less_than_a_bound_lets_happen_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, least: int
) -> None:
    monkeypatch.setenv(f"KAITOFLOW_{name.upper()}", str(least - 1))
    with pytest.raises(ValidationError, match=name):
        Settings()
    monkeypatch.setenv(f"KAITOFLOW_{name.upper()}", str(least))
    assert getattr(Settings(), name) == least


def test_the_home_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert Settings().home_dir == Path("/home/ada/.kaitoflow")


def test_a_process_reads_its_settings_once_and_cannot_change_them() -> None:
    assert settings() is settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings(), "namespace", "other")  # noqa: B010  mypy knows that it is frozen


@pytest.mark.parametrize(
    ("namespaces", "expected"), [((), True), (("team", "other"), True), (("other",), False)]
)
def test_workspaces_of_named_namespaces_are_run_or_of_all(
    namespaces: tuple[str, ...], expected: bool
) -> None:
    assert Settings(namespaces=namespaces).serves("team") is expected
