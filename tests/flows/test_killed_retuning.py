"""A retuning promotes once: killed at the beginning and end of each step, or due when nobody ran.

Each time it is begun again, and goes on with what its pod programs have done meanwhile.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pyarrow.parquet as pq
import pytest
import yaml

from tests.flows.conftest import RUN_TIMEOUT_S, Installation, write_workspace
from tests.flows.prefect import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = ("provision", "weights", "download", "tune", "push", "evaluate")
MOMENTS = [
    *(f"{edge} {step}" for step in STEPS for edge in ("begin", "end")),
    "end promotion",
    "promoted",
    "told",
]


def of_forgiving_gate(folder: Path) -> Path:
    """A Workspace whose candidates pass, whatever they have learned."""
    training = {"learning_rate": 5e-4, "per_device_train_batch_size": 4}
    file = write_workspace(folder, "retuned", rows=24, training=training, split=0.7)
    workspace, config = yaml.safe_load_all(file.read_text())
    workspace["metadata"]["annotations"] = {
        "kaitoflow.io/gate": "loss margin -50 rows 2 floor none"
    }
    file.write_text(yaml.safe_dump_all([workspace, config]))
    return file


def with_other_bytes(data: Path) -> None:
    """The same rows in another file: an adapter from them is as good, so that it passes."""
    pq.write_table(pq.read_table(data), data, compression="gzip")


def killed(installation: Installation, moment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.flows.dying", moment, "retune", "retuned"],
        check=False,
        capture_output=True,
        text=True,
        env=installation.env(),
        stdin=subprocess.DEVNULL,
        timeout=RUN_TIMEOUT_S,
    )


def runs_by_state(installation: Installation, *, since: datetime) -> dict[str, int]:
    """How many retunings Prefect has in which state; other tests' have the same name."""
    url = f"{installation.environment['PREFECT_API_URL']}/flow_runs/filter"
    name, began = {"any_": ["retune default/retuned"]}, {"after_": since.isoformat()}
    asked = {"flow_runs": {"name": name, "start_time": began}}
    return Counter(run["state_type"] for run in ask("POST", url, json=asked).json())


def images(installation: Installation) -> list[str]:
    index = json.loads((installation.home / "images/index.json").read_bytes())
    return sorted(
        each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]
    )


def generation_that_answers(status: dict[str, Any]) -> str:
    answer = httpx2.post(
        f"{status['endpoint']['url']}/v1/completions",
        json={"model": "retuned", "prompt": "What", "max_tokens": 2},
        trust_env=False,
        timeout=60,
    )
    answer.raise_for_status()
    return answer.headers["X-Kaitoflow-Generation"]


def test_a_retuning_that_is_killed_at_every_step_promotes_once(
    installation: Installation,
) -> None:
    file = of_forgiving_gate(installation.home)
    ended = installation.kaitoflow("run", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with_other_bytes(file.parent / "rows.parquet")

    began = datetime.now(UTC)
    for moment in MOMENTS:
        ended = killed(installation, moment)
        assert ended.returncode == -signal.SIGKILL, (moment, ended.stdout + ended.stderr)
        assert len(serving(installation)) == 1, moment
    ended = installation.kaitoflow("retune", "retuned")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "skipped: the data has the same" in ended.stdout
    # Prefect hears nothing of a kill: each run was ended by the command that came next.
    assert runs_by_state(installation, since=began) == {"CRASHED": len(MOMENTS), "COMPLETED": 1}

    status = installation.object("retuned")["status"]
    first, second = status["adapters"]["records"]
    assert [(r["number"], r["fate"], r["by"]) for r in (first, second)] == [
        (1, "served", "run"),
        (2, "serving", "gate"),
    ]
    assert "passes" in second["why"]
    assert second["data"] != first["data"]
    assert "candidate" not in status["adapters"]
    assert status["image"]["digest"] == second["image"]["digest"] != first["image"]["digest"]
    assert images(installation) == [r["image"]["reference"] for r in (first, second)]
    assert generation_that_answers(status) == "retuned@2"
    [log] = installation.home.rglob("candidate-2/logs/tune.log")
    assert "run already finished" in log.read_text()
    assert len(installation.process_ids()) == 1


def test_of_two_looks_that_were_missed_one_is_made_up_for(installation: Installation) -> None:
    file = of_forgiving_gate(installation.home)
    ended = installation.kaitoflow("run", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    deploy = "import asyncio; from flows.worker.deployments import deploy; asyncio.run(deploy())"
    subprocess.run([sys.executable, "-c", deploy], check=True, env=installation.env())
    with_other_bytes(file.parent / "rows.parquet")
    looks = [missed(installation, due_s=due_s) for due_s in (-60, -30)]

    server = installation.start("server")
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not all(has_ended(installation, look) for look in looks):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(1)
    server.send_signal(signal.SIGINT)
    server.wait(60)

    states = [state_of(installation, look) for look in looks]
    assert [state["name"] for state in states] == ["Completed", "Skipped"]
    assert "a look that was due later has ended" in states[1]["message"]
    records = installation.object("retuned")["status"]["adapters"]["records"]
    assert [record["fate"] for record in records] == ["served", "serving"]


def missed(installation: Installation, *, due_s: float) -> str:
    """The id of a look at the data that was due so many seconds from now, below 0 = already."""
    due = (datetime.now(UTC) + timedelta(seconds=due_s)).isoformat()
    api = installation.environment["PREFECT_API_URL"]
    deployment = ask("GET", f"{api}/deployments/name/retune-workspace/local").json()
    body = {
        "parameters": {"namespace": "default", "name": "retuned"},
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due}},
    }
    made = ask("POST", f"{api}/deployments/{deployment['id']}/create_flow_run", json=body)
    made.raise_for_status()
    return str(made.json()["id"])


def state_of(installation: Installation, run: str) -> dict[str, Any]:
    api = installation.environment["PREFECT_API_URL"]
    state: dict[str, Any] = ask("GET", f"{api}/flow_runs/{run}").json()["state"]
    return state


def has_ended(installation: Installation, run: str) -> bool:
    return state_of(installation, run)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def serving(installation: Installation) -> list[int]:
    records = installation.home.rglob("serve.process.json")
    pids = [json.loads(path.read_text())["pid"] for path in records]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
