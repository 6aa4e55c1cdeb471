"""The command of a gate is looked at before anything is trained."""

from dataclasses import replace

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    KaitoflowError,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.plan.look import look
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_manifest

HERE = World(config_maps={}, has_secret=lambda _name: True, allow_commands=True)
CLUSTER = replace(HERE, is_cluster=True, push=True, allow_commands=False)
IN_IMAGE, PROCESS = "ghcr.io/example/score:1 python /score.py", "- python3 /home/me/score.py"
SHOWN = "python /score.py in ghcr.io/example/score:1"


def scored(command: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {
        "kaitoflow.io/gate": "command",
        "kaitoflow.io/gate-command": command,
    }
    return parse_workspace(manifest, source="test")


def line(
    command: str, found: bool | KaitoflowError | None, world: World, name: str = "gate"
) -> Check:
    plan = make_plan(scored(command), world, Findings(has_gate_image=found))
    return next(check for check in plan.checks if check.name == name)


@pytest.mark.parametrize(
    ("found", "result", "detail"),
    [
        (True, "ok", SHOWN),
        (None, "ok", SHOWN),
        (False, "fail", "its registry has no such image"),
        (RegistryUnavailable("it was asked", "HTTP 503", "see"), "warn", f"{SHOWN}; it was asked"),
        (RegistryDenied("it was asked", "401", "log in"), "warn", "could not be seen from here"),
        (AddressForbidden("it was asked", "inside", "no"), "warn", "could not be seen from here"),
    ],
)
def test_an_image_that_scores_has_a_line_of_the_plan(
    found: bool | KaitoflowError | None, result: str, detail: str
) -> None:
    told = line(IN_IMAGE, found, CLUSTER)
    assert told.result == result
    assert detail in told.detail


def test_a_process_that_scores_is_shown_as_one() -> None:
    told = line(PROCESS, None, HERE)
    assert told.result == "ok"
    assert told.detail == "python3 /home/me/score.py in a process of this machine"


@pytest.mark.parametrize(
    ("command", "world", "fix"),
    [
        (IN_IMAGE, HERE, "have the Workspace retuned on a cluster"),
        (PROCESS, CLUSTER, "write an image"),
        (PROCESS, replace(HERE, allow_commands=False), "KAITOFLOW_ALLOW_COMMANDS=true"),
    ],
)
def test_a_command_that_cannot_be_run_there_is_a_wrong_word(
    command: str, world: World, fix: str
) -> None:
    told = line(command, None, world, name="words")
    assert told.result == "fail"
    assert fix in told.fix


@pytest.mark.parametrize(("command", "world"), [(PROCESS, HERE), (PROCESS, CLUSTER)])
async def test_no_registry_is_asked_for_what_is_no_image(command: str, world: World) -> None:
    found = await look(scored(command), world, Settings(), list_nodes=None, list_holders=None)
    assert found.has_gate_image is None
