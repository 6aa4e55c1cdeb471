"""One whole run with the real model: what is printed, made, kept in Prefect, and done again."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tasks.contract.status import ConditionType
from tests.cluster.build import tool
from tests.cluster.registry import running_registry
from tests.flows.canary import CANARY, holding
from tests.flows.conftest import FinishedRun
from tests.flows.prefect import ask

pytestmark = pytest.mark.timeout(600)


def prefect(finished: FinishedRun, route: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    url = finished.installation.environment["PREFECT_API_URL"]
    found: list[dict[str, Any]] = ask("POST", f"{url}/{route}/filter", json=body).json()
    return found


def artifact(finished: FinishedRun, key: str) -> dict[str, Any]:
    run = {"any_": [finished.object["status"]["flowRunId"]]}
    body = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": run}}
    return prefect(finished, "artifacts", body)[0]


def test_the_run_prints_both_answers_the_digest_and_the_url(finished: FinishedRun) -> None:
    status = finished.object["status"]
    for words in ("before ", "after ", status["image"]["digest"], status["endpoint"]["url"]):
        assert words in finished.output


def test_the_tuned_model_answers_held_out_questions_better(finished: FinishedRun) -> None:
    held_out = finished.object["status"]["heldOut"]
    assert held_out["rows"] >= 20
    assert held_out["lossAfter"] < held_out["lossBefore"]
    assert f"{held_out['lossAfter']:.3f} after tuning" in finished.output


def test_the_tuned_model_stops_by_itself(finished: FinishedRun) -> None:
    url = finished.object["status"]["endpoint"]["url"]
    question = {"role": "user", "content": "What does os.path.join do?"}
    body = {"messages": [question], "max_tokens": 400, "temperature": 0}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "quickstart"


def test_every_condition_is_true_at_the_end_but_of_claims_where_there_are_none(
    finished: FinishedRun,
) -> None:
    conditions = finished.object["status"]["conditions"]
    assert [c["type"] for c in conditions] == [*ConditionType]
    assert all(c["message"] for c in conditions)
    untrue = [(c["type"], c["reason"]) for c in conditions if c["status"] != "True"]
    assert untrue == [("NodeClaimReady", "NotAsked")]


def test_the_printed_curl_answers(finished: FinishedRun) -> None:
    line = next(line for line in finished.output.splitlines() if line.startswith("try "))
    answer = subprocess.run(
        ["bash", "-c", f"{line.removeprefix('try').strip()} -sS --fail"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(answer.stdout)["Result"]


def test_chat_answers_on_the_command_line(finished: FinishedRun) -> None:
    ended = finished.installation.kaitoflow("chat", "quickstart", "What does len do?")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_a_second_oci_tool_reads_the_image(finished: FinishedRun, tmp_path: Path) -> None:
    layout = str(finished.installation.home / "images")
    with running_registry(tmp_path) as registry:
        there = f"{registry.host}/adapters/quickstart:1"
        crane("push", layout, there)
        assert crane("digest", there).strip() == finished.object["status"]["image"]["digest"]
        config = json.loads(crane("config", there))
    assert config["rootfs"]["type"] == "layers"


def crane(*arguments: str) -> str:
    command = [str(tool("crane")), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_running_again_resumes_and_changes_nothing(finished: FinishedRun) -> None:
    again = finished.installation.kaitoflow("run", str(finished.file))
    assert again.returncode == 0, again.stdout + again.stderr
    status = finished.installation.object("quickstart")["status"]
    assert status["image"] == finished.object["status"]["image"]
    assert status["endpoint"] == finished.object["status"]["endpoint"]
    tuned = next(step for step in status["steps"] if step["name"] == "tune")
    assert tuned["seconds"] < 10
    generation = finished.object["metadata"]["generation"]
    assert tuned["detail"] == f"tuned in generation {generation}; nothing it depends on has changed"
    assert status["heldOut"] == finished.object["status"]["heldOut"]


def test_the_run_has_a_name_a_person_would_say(finished: FinishedRun) -> None:
    names = {run["name"] for run in prefect(finished, "flow_runs", {})}
    assert "run default/quickstart" in names


def test_every_step_is_a_named_task(finished: FinishedRun) -> None:
    names = {run["name"] for run in prefect(finished, "task_runs", {})}
    steps = ("plan", "check", "provision", "download", "tune", "push", "deploy")
    assert {f"{step} default/quickstart" for step in steps} <= names


def test_the_plan_is_a_table_in_prefect(finished: FinishedRun) -> None:
    plan = artifact(finished, "plan")
    assert plan["type"] == "table"
    assert "base model" in plan["data"]


def test_the_progress_of_tuning_ends_at_a_hundred(finished: FinishedRun) -> None:
    progress = artifact(finished, "tuning-progress")
    assert (progress["type"], progress["data"]) == ("progress", 100.0)


def test_the_report_has_the_loss_curve_image_and_service(finished: FinishedRun) -> None:
    report = artifact(finished, "report")["data"]
    status = finished.object["status"]
    for words in ("data:image/svg+xml", status["image"]["digest"], status["endpoint"]["url"]):
        assert words in report


def test_the_trainers_words_are_in_prefects_log(finished: FinishedRun) -> None:
    run = {"any_": [finished.object["status"]["flowRunId"]]}
    logs = prefect(finished, "logs", {"logs": {"flow_run_id": run}, "limit": 200})
    messages = [log["message"] for log in logs]
    assert any("tune: " in message and "loss=" in message for message in messages)


def test_the_logs_command_tells_every_step(finished: FinishedRun) -> None:
    text = finished.installation.kaitoflow("logs", "quickstart").stdout
    for name in ("fetch-weights | ", "fetch-dataset | ", "tune | ", "push-image | ", "serve | "):
        assert name in text


def test_the_secrets_of_the_dataset_s_address_stay_with_their_owner(
    finished: FinishedRun, prefect_folder: Path
) -> None:
    home = finished.installation.home
    held = [path for path in holding(home, CANARY) if path != finished.file]
    assert {path.name for path in held} == {"workspace.json", "fetch-dataset.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in held} == {0o600}
    assert CANARY not in finished.output


def test_the_secrets_of_the_dataset_s_address_are_nowhere_in_prefect(
    finished: FinishedRun, prefect_folder: Path
) -> None:
    [run] = prefect(finished, "flow_runs", {"flow_runs": {"name": {"like_": "quickstart"}}})[:1]
    [url] = run["parameters"]["workspace"]["tuning"]["input"]["urls"]
    assert url.endswith("/rows.parquet?sv=1&sig=***")
    assert holding(prefect_folder, "rows.parquet?sv=1&sig=***")  # the search finds what is there
    assert holding(prefect_folder, CANARY) == []
