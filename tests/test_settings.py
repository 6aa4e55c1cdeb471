"""Settings are read from KAITOFLOW_* variables, and refused where they contradict each other."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.settings import Settings, settings

# What README, the chart's values and the plan promise.
PROMISED = {
    "namespace": "default",
    "launch_timeout_s": 300,
    "register_timeout_s": 900,
    "gpu_timeout_s": 600,
    "capacity_wait_s": 24 * 3600,
    "max_nodes": 100,
    "garbage_grace_s": 600,
    "node_ready_timeout_s": 600,
    "allow_local_addresses": False,
    "server_ready_timeout_s": 300,
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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAUNCH_TIMEOUT_S", "0"),
        ("MAX_NODES", "0"),
        ("GARBAGE_GRACE_S", "-1"),
        ("PLAN_TIMEOUT_S", "0"),
        ("JOB_TIMEOUT_S", "59"),
    ],
)
def test_a_time_or_a_bound_that_lets_nothing_happen_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"KAITOFLOW_{variable}", value)
    with pytest.raises(ValidationError, match=variable.lower()):
        Settings()


def test_the_home_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert Settings().home_dir == Path("/home/ada/.kaitoflow")


def test_a_process_reads_its_settings_once_and_cannot_change_them() -> None:
    assert settings() is settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings(), "namespace", "other")  # noqa: B010  mypy knows that it is frozen
