import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.programs.image import PullConfig, PushConfig
from tests.cluster.registry import RunningRegistry
from tests.image.builders import pull_config, push_config, read_index, write_adapter
from tests.image.faulty import Fault, faulty_registry

pytestmark = [pytest.mark.registry, pytest.mark.timeout(60, func_only=True)]


def start(program: str, config: PushConfig | PullConfig, folder: Path) -> subprocess.Popen[str]:
    arguments = folder / "arguments.json"
    arguments.write_text(json.dumps(asdict(config), default=str))
    command = [sys.executable, "-m", program, str(arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(
    program: str, config: PushConfig | PullConfig, folder: Path
) -> tuple[int, Mapping[str, Any]]:
    """The exit code and the last event."""
    process = start(program, config, folder)
    said, _ = process.communicate(timeout=30)
    return process.returncode, json.loads(said.splitlines()[-1])


def test_an_adapter_goes_out_and_comes_back(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    reference = f"{registry.host}/{name}:v1"
    code, pushed = run("tasks.image.pod", push_config(adapter, reference), tmp_path)
    assert (code, pushed["event"], pushed["pushed"]) == (0, "result", True)
    target = tmp_path / "target"
    code, pulled = run("tasks.image.pod.pull", pull_config(reference, target), tmp_path)
    assert (code, pulled["event"], pulled["digest"]) == (0, "result", pushed["digest"])
    for path in adapter.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_a_refusal_is_a_verdict(
    private_registry: RunningRegistry, adapter: Path, tmp_path: Path
) -> None:
    config = push_config(adapter, f"{private_registry.host}/phi:v1")
    code, verdict = run("tasks.image.pod", config, tmp_path)
    assert (code, verdict["event"], verdict["reason"]) == (3, "verdict", "RegistryDenied")
    assert verdict["retryable"] is False


@pytest.mark.parametrize("stage", [signal.SIGKILL, signal.SIGTERM])
def test_a_push_that_was_killed_ends_well_when_run_again(
    registry: RunningRegistry, tmp_path: Path, name: str, stage: signal.Signals
) -> None:
    adapter = write_adapter(tmp_path / "adapter", weights_bytes=2**20, seed=stage)
    fault = Fault("PUT", "/blobs/uploads/", hang=True)
    with faulty_registry(registry.host, fault) as proxy:
        config = push_config(adapter, f"{proxy.host}/{name}:v1")
        process = start("tasks.image.pod", config, tmp_path)
        assert fault.reached.wait(20)
        os.kill(process.pid, stage)
        process.communicate()
        assert process.returncode == (-9 if stage == signal.SIGKILL else 143)
        fault.release.set()
        code, result = run("tasks.image.pod", config, tmp_path)
    assert (code, result["pushed"]) == (0, True)
    assert read_index(config.layout_dir) == {config.reference: result["digest"]}


def test_a_pull_that_was_killed_leaves_nothing_half_done(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    run("tasks.image.pod", push_config(adapter, f"{registry.host}/{name}:v1"), tmp_path)
    fault = Fault("GET", "/blobs/sha256:", hang=True)
    target = tmp_path / "target"
    with faulty_registry(registry.host, fault) as proxy:
        config = pull_config(f"{proxy.host}/{name}:v1", target)
        process = start("tasks.image.pod.pull", config, tmp_path)
        assert fault.reached.wait(20)
        process.kill()
        process.communicate()
        assert not target.exists()
        fault.release.set()
        assert run("tasks.image.pod.pull", config, tmp_path)[0] == 0
    assert len(list(target.iterdir())) == 4
    assert not list(tmp_path.glob(".target*"))
