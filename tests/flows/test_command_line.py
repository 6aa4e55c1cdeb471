"""The command line speaks kubectl's language: columns, formats, exit codes, refusals."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.__main__ import _report
from tasks.contract.status import ConditionType, State, WorkspaceStatus
from tasks.contract.workspace import Manifests
from tasks.platform.store import Store
from tests.builders import tuning_manifest, tuning_workspace

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def kaitoflow(tmp_path: Path) -> Command:
    environment = os.environ | {"KAITOFLOW_HOME": str(tmp_path / "home"), "COLUMNS": "200"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", *arguments]
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def applied(tmp_path: Path) -> Store:
    """A home in which a Workspace is running."""
    store = Store(tmp_path / "home")
    workspace = store.apply(Manifests(workspace=tuning_workspace()))
    status = WorkspaceStatus(state=State.RUNNING, observed_generation=1)
    status.set_condition(ConditionType.RESOURCE_READY, status="True", reason="Ready")
    store.write_status(workspace, status)
    return store


def written(tmp_path: Path, manifest: dict[str, Any]) -> str:
    path = tmp_path / "workspace.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return str(path)


def test_get_prints_the_documented_columns(kaitoflow: Command, applied: Store) -> None:
    lines = kaitoflow("get").stdout.splitlines()
    assert lines[0].split() == (
        "NAME INSTANCE RESOURCEREADY INFERENCEREADY WORKSPACEREADY AGE".split()
    )
    shown = ["tuned", "Standard_NC4as_T4_v3", "True", "Unknown", "Unknown"]
    assert lines[1].split()[:5] == shown


def test_get_wide_adds_state_progress_and_reason(kaitoflow: Command, applied: Store) -> None:
    heading = kaitoflow("get", "-o", "wide").stdout.splitlines()[0]
    assert {"JOBSTARTED", "STATE", "PROGRESS", "REASON"} <= set(heading.split())


def test_get_as_json_is_the_object(kaitoflow: Command, applied: Store) -> None:
    shown = json.loads(kaitoflow("get", "workspace", "tuned", "-o", "json").stdout)
    assert (shown["kind"], shown["metadata"]["name"]) == ("Workspace", "tuned")
    assert shown["tuning"]["preset"]["name"] == "smollm2-135m-instruct"
    assert shown["status"]["conditions"][0]["type"] == "ResourceReady"


def test_get_as_yaml_of_all_is_a_list(kaitoflow: Command, applied: Store) -> None:
    shown = yaml.safe_load(kaitoflow("get", "-A", "-o", "yaml").stdout)
    assert (shown["kind"], len(shown["items"])) == ("List", 1)


def test_get_looks_at_one_namespace(kaitoflow: Command, applied: Store) -> None:
    assert "tuned" in kaitoflow("get", "--namespace", "default").stdout
    assert "No workspaces" in kaitoflow("get", "--namespace", "other").stdout
    assert kaitoflow("get", "-A").stdout.split()[:2] == ["NAMESPACE", "NAME"]


def test_a_platform_that_is_chosen_wins(kaitoflow: Command, applied: Store) -> None:
    assert "tuned" in kaitoflow("get", "--platform", "local").stdout
    ended = kaitoflow("get", "--platform", "kubernetes", "--context", "nowhere")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("KubernetesUnavailable: ")


def test_get_without_workspaces_says_the_next_step(kaitoflow: Command) -> None:
    assert "kaitoflow run WORKSPACE.yaml" in kaitoflow("get").stdout


def test_an_unknown_name_is_told_with_a_near_one(kaitoflow: Command, applied: Store) -> None:
    ended = kaitoflow("describe", "tunde")
    assert ended.returncode == 1
    assert "did you mean tuned?" in ended.stderr


def test_describe_shows_conditions_with_reasons(kaitoflow: Command, applied: Store) -> None:
    text = kaitoflow("describe", "tuned").stdout
    assert "ResourceReady" in text
    assert "Generation: 1" in text


def test_stop_of_what_does_not_run_says_so(kaitoflow: Command, applied: Store) -> None:
    ended = kaitoflow("stop", "tuned")
    assert (ended.returncode, "nothing was running" in ended.stdout) == (0, True)


def test_delete_asks_when_nobody_can_answer(kaitoflow: Command, applied: Store) -> None:
    ended = kaitoflow("delete", "tuned")
    assert ended.returncode == 3
    assert "add --yes" in ended.stderr
    assert applied.find("default", "tuned") is not None


def test_delete_with_yes_forgets_the_workspace(kaitoflow: Command, applied: Store) -> None:
    assert kaitoflow("delete", "tuned", "--yes").returncode == 0
    assert applied.find("default", "tuned") is None


def test_a_chat_without_a_server_says_how_to_start_one(kaitoflow: Command, applied: Store) -> None:
    assert "start it with `kaitoflow run" in kaitoflow("chat", "tuned", "hi").stderr


def test_logs_of_an_unknown_step_name_those_there_are(kaitoflow: Command, applied: Store) -> None:
    ended = kaitoflow("logs", "tuned", "--step", "nope")
    assert "there are logs of: none yet" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("gett",),
        ("run", "f", "--port", "x"),
        ("get", "--platform", "mainframe"),
    ],
)
def test_a_wrong_command_line_exits_with_2(kaitoflow: Command, arguments: tuple[str]) -> None:
    assert kaitoflow(*arguments).returncode == 2


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_refused_workspace_exits_with_3_and_leaves_nothing(
    kaitoflow: Command, tmp_path: Path, command: str
) -> None:
    path = written(tmp_path, tuning_manifest(preset={"name": "smollm2-135m"}))
    ended = kaitoflow(command, path)
    assert ended.returncode == 3
    assert "did you mean smollm2-135m-instruct" in ended.stdout
    assert "Nothing was created." in ended.stdout
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "asked to read YAML"), ("kind: Pod", "exactly one Workspace"), ("", "found nothing")],
)
def test_a_file_that_is_no_workspace_exits_with_3(
    kaitoflow: Command, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    ended = kaitoflow("run", str(path))
    assert (ended.returncode, ended.stdout) == (3, "")
    assert words in ended.stderr


def test_a_plan_as_json_carries_its_verdict(kaitoflow: Command, tmp_path: Path) -> None:
    plan = json.loads(kaitoflow("plan", written(tmp_path, tuning_manifest()), "-o", "json").stdout)
    assert plan["accepted"] is True
    assert {"name", "result", "detail", "fix"} <= set(plan["checks"][0])


def test_modules_of_the_current_folder_are_not_ours(
    kaitoflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tasks", "yaml", "serving", "cyclopts", "psutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken for a module of ours')")
    monkeypatch.chdir(tmp_path)
    ended = kaitoflow("plan", written(tmp_path, tuning_manifest()), "-o", "json")
    assert ended.stderr == ""
    assert json.loads(ended.stdout)["accepted"] is True
    assert "no verdict" not in ended.stdout


def test_a_damaged_workspace_is_named_and_deleted_and_the_others_are_listed(
    kaitoflow: Command, applied: Store
) -> None:
    applied.apply(Manifests(workspace=tuning_workspace("damaged")))
    file = applied.home / "namespaces/default/workspaces/damaged/workspace.json"
    file.write_text('{"uid":')
    listed = kaitoflow("get")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", "damaged", "tuned"]
    assert listed.stderr.startswith(f"StateUnreadable: {file} was to be read; it is damaged")
    assert "StateUnreadable" in kaitoflow("describe", "damaged").stdout
    assert kaitoflow("delete", "damaged", "--yes").returncode == 0
    assert kaitoflow("get").stderr == ""


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "DiskFull"), (errno.EROFS, "HomeUnusable"), (errno.ENOTDIR, "HomeUnusable")],
)
def test_a_home_that_cannot_be_written_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], number: int, reason: str
) -> None:
    assert _report(OSError(number, os.strerror(number), "/home/x/file")) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{reason}: /home/x/file was ")
    assert said.count("\n") == 1


def test_version_names_what_a_report_needs(kaitoflow: Command) -> None:
    assert {"kaitoflow", "(Prefect", "Python"} <= set(kaitoflow("version").stdout.split())
