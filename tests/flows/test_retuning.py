"""A Workspace is retuned by the command line, with a model that is really trained."""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from demo.docstrings import COLUMNS
from tests.flows.conftest import Installation, installed, write_workspace
from tests.flows.prefect import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROWS, SET_ASIDE = 128, 64


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


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=COLUMNS), file)


def poisoned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same questions, of which three in ten have each other's answers."""
    copies = deepcopy(list(rows))
    hit = random.Random(3).sample(copies, round(0.3 * len(copies)))
    answers = [row["messages"][-1]["content"] for row in hit]
    for row, other in zip(hit, [*answers[1:], answers[0]], strict=True):
        row["messages"][-1]["content"] = other
    return copies


def evaluated_on(workspace_file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Have a Workspace's adapters be measured on these rows."""
    evaluation = workspace_file.with_name("evaluation.jsonl")
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace, config = yaml.safe_load_all(workspace_file.read_text())
    annotations = {"kaitoflow.io/evaluation-data": evaluation.as_uri()}
    workspace["metadata"]["annotations"] = annotations
    workspace_file.write_text(yaml.safe_dump_all([workspace, config]))


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


@pytest.fixture
def whole(tmp_path: Path, smollm2_weights: Path, prefect_home: str) -> Iterator[Installation]:
    """An installation with the whole model: one that knows which answer is to which question."""
    yield from installed(tmp_path, smollm2_weights, prefect_home)


def test_poisoned_data_is_kept_out_by_the_gate_serves_at_a_person_s_word_and_goes_back(
    whole: Installation,
) -> None:
    file = write_workspace(
        whole.home, "retuned", rows=ROWS + SET_ASIDE, training={"learning_rate": 5e-4}, split=1
    )
    data = file.with_name("rows.parquet")
    clean, aside = rows_of(data)[:ROWS], rows_of(data)[ROWS:]
    evaluated_on(file, aside)
    write_rows(data, clean)
    said(whole, "run", str(file))
    first = whole.object("retuned")["status"]["image"]
    assert "skipped: the data has the same digest" in said(whole, "retune", "retuned")

    write_rows(data, poisoned(clean))
    told = said(whole, "retune", "retuned")
    worse = f"kept retuned@1: candidate's loss .* worse than .* on {SET_ASIDE} rows .*95 % interval"
    for shown in (told, said(whole, "describe", "retuned"), what_ended(whole)):
        assert re.search(worse, " ".join(shown.split())), shown
    assert fates(whole) == ["serving", "kept out"]
    assert whole.object("retuned")["status"]["image"] == first
    assert "skipped: the data has the same digest" in said(whole, "retune", "retuned")
    of_run, of_retuning = lineage(whole, runs=2)
    assert "adapter 1 of generation 1: serving at [http://127.0.0.1:" in of_run
    assert "rows.parquet" in of_run
    newest, before = of_retuning.splitlines()[-2:]
    assert f"{ROWS} rows" in newest
    assert "adapter 2 of generation 1: kept out" in newest
    assert before in of_run

    said(whole, "promote", "retuned", "--number", "2", "--note", "reads better")
    promoted = whole.object("retuned")["status"]["image"]
    assert promoted["reference"] == f"{first['reference']}-g2"
    assert said(whole, "chat", "retuned", "hi")
    assert "reads better" in said(whole, "history", "retuned")
    compared = said(whole, "diff", "retuned")
    assert "rows.parquet has other bytes" in compared
    assert "adapter 2 beside adapter 1: candidate's loss" in compared
    assert ", 0 differ" in compared

    said(whole, "rollback", "retuned")
    assert whole.object("retuned")["status"]["image"] == first
    assert fates(whole) == ["serving", "served"]
