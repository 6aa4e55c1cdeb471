"""A Workspace is retuned by the command line, with a small model that is really trained."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.docstrings import write_docstring_dataset
from tests.flows.conftest import Installation, write_workspace
from tests.flows.prefect import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def adapters(installation: Installation) -> dict[str, Any]:
    found: dict[str, Any] = installation.object("retuned")["status"]["adapters"]
    return found


def fates(installation: Installation) -> list[str]:
    return [each["fate"] for each in adapters(installation)["records"]]


def said(installation: Installation, *arguments: str) -> str:
    ended = installation.kaitoflow(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def lineage(installation: Installation, *, runs: int) -> list[str]:
    """The tables of so many latest runs, the first run's first.

    Other tests' Workspaces on the same Prefect server have the same name.
    """
    body = {"artifacts": {"key": {"any_": ["lineage"]}}, "sort": "CREATED_DESC"}
    url = f"{installation.environment['PREFECT_API_URL']}/artifacts/filter"
    tables = [each["data"] for each in ask("POST", url, json=body).json()]
    return [table for table in reversed(tables) if "default/retuned" in table][-runs:]


def what_ended(installation: Installation) -> str:
    """The words with which Prefect's UI shows the end of the last retuning."""
    body = {
        "flow_runs": {"name": {"any_": ["retune default/retuned"]}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    url = f"{installation.environment['PREFECT_API_URL']}/flow_runs/filter"
    [run] = ask("POST", url, json=body).json()
    return str(run["state"]["message"])


def with_gate(file: Path, gate: str) -> None:
    workspace, config = yaml.safe_load_all(file.read_text())
    workspace["metadata"]["annotations"] = {"kaitoflow.io/gate": gate}
    file.write_text(yaml.safe_dump_all([workspace, config]))


def test_new_data_is_kept_out_by_the_gate_serves_at_a_person_s_word_and_goes_back(
    installation: Installation,
) -> None:
    file = write_workspace(
        installation.home,
        "retuned",
        rows=40,
        training={"learning_rate": 5e-4, "per_device_train_batch_size": 4},
        split=0.7,
    )
    with_gate(file, "loss margin 50 rows 10 floor none")
    said(installation, "run", str(file))
    first = installation.object("retuned")["status"]["image"]
    assert "skipped: the data has the same digest" in said(installation, "retune", "retuned")

    write_docstring_dataset(file.parent / "rows.parquet", rows=50, seed=1)
    told = said(installation, "retune", str(file))
    for shown in (told, said(installation, "describe", "retuned"), what_ended(installation)):
        words = " ".join(shown.split())
        assert "kept retuned@1: candidate's loss" in words
        assert "95 % interval" in words
    assert fates(installation) == ["serving", "kept out"]
    assert "skipped: the data has the same digest" in said(installation, "retune", "retuned")
    of_run, of_retuning = lineage(installation, runs=2)
    assert "adapter 1 of generation 1: serving at [http://127.0.0.1:" in of_run
    assert "rows.parquet" in of_run
    newest, before = of_retuning.splitlines()[-2:]
    assert "50 rows" in newest
    assert "adapter 2 of generation 1: kept out" in newest
    assert before in of_run

    said(installation, "promote", "retuned", "--number", "2", "--note", "reads better")
    promoted = installation.object("retuned")["status"]["image"]
    assert promoted["reference"] == f"{first['reference']}-g2"
    assert said(installation, "chat", "retuned", "hi")
    assert "reads better" in said(installation, "history", "retuned")
    compared = said(installation, "diff", "retuned")
    assert "rows.parquet has other bytes" in compared
    assert "adapter 2 beside adapter 1: candidate's loss" in compared
    assert ", 0 differ" in compared

    said(installation, "rollback", "retuned")
    assert installation.object("retuned")["status"]["image"] == first
    assert fates(installation) == ["serving", "served"]
