"""Which command scores is read from an annotation, and what cannot be run is refused with why."""

from pathlib import Path

import pytest

from tasks.contract.errors import (
    GateCommandFailed,
    GateCommandUnusable,
    ImageReferenceInvalid,
    InvalidWorkspace,
)
from tasks.contract.gate_command import (
    GATE_COMMAND_ANNOTATION,
    MOST_CHARS,
    GateCommand,
    Heard,
    environment_of,
    expect_runnable,
    gate_command_of,
    parse_gate_command,
)
from tasks.contract.retuning import expect_retunable
from tasks.contract.words import expect_annotations, without_effect
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_manifest

IMAGE = "ghcr.io/example/score:1"
IN_IMAGE = GateCommand(image=IMAGE, words=("python", "/score.py"))
HERE = GateCommand(image="", words=("python3", "/home/me/score.py"))


def annotated(**changes: str | None) -> Workspace:
    manifest = tuning_manifest()
    asked = {"gate": "command margin 0.05 rows 32", "gate-command": f"{IMAGE} python /score.py"}
    given = asked | {name.replace("_", "-"): value for name, value in changes.items()}
    manifest["metadata"]["annotations"] = {
        f"kaitoflow.io/{name}": value for name, value in given.items() if value is not None
    }
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (f" {IMAGE}  python\n/score.py ", IN_IMAGE),
        ("- python3 /home/me/score.py", HERE),
        (f"{IMAGE} say 'two words'", GateCommand(image=IMAGE, words=("say", "two words"))),
        ("python:3.12-slim true", GateCommand(image="python:3.12-slim", words=("true",))),
    ],
)
def test_a_command_is_an_image_and_what_is_run_there(text: str, command: GateCommand) -> None:
    assert parse_gate_command(text) == command


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it is empty"),
        (IMAGE, f"it names '{IMAGE}' alone, and no command"),
        ("-", "it names '-' alone, and no command"),
        ("a 'b", "it cannot be read (No closing quotation)"),
    ],
)
def test_any_other_text_is_refused_with_what_to_write(text: str, found: str) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        parse_gate_command(text)
    assert found in refused.value.found
    assert '"ghcr.io/example/score:1 python /score.py"' in refused.value.fix


def test_an_image_s_name_is_judged_as_any_other() -> None:
    with pytest.raises(ImageReferenceInvalid, match="upper-case letters"):
        parse_gate_command("ghcr.io/Example/score:1 python")


def test_a_gate_that_asks_for_a_command_needs_one() -> None:
    workspace = annotated()
    expect_annotations(workspace)
    expect_retunable(workspace)
    assert [*without_effect(workspace)] == []
    with pytest.raises(InvalidWorkspace, match="nobody says which command scores"):
        expect_retunable(annotated(gate_command=None))
    with pytest.raises(InvalidWorkspace, match="alone"):
        expect_retunable(annotated(gate_command=IMAGE))


@pytest.mark.parametrize("gate", ["loss margin 0.02", None])
def test_a_command_that_no_gate_asks_for_is_told_to_do_nothing(gate: str | None) -> None:
    workspace = annotated(gate=gate)
    assert gate_command_of(workspace.metadata.annotations) is None
    told = f"annotation {GATE_COMMAND_ANNOTATION}: kaitoflow.io/gate is not command"
    assert [*without_effect(workspace)] == [told]


def test_a_cluster_runs_images_and_a_machine_that_is_told_so_runs_processes() -> None:
    expect_runnable(IN_IMAGE, is_cluster=True, allow_commands=False)
    expect_runnable(HERE, is_cluster=False, allow_commands=True)


@pytest.mark.parametrize(
    ("command", "is_cluster", "allow_commands", "found", "fix"),
    [
        (HERE, True, True, "is run in an image", "write an image and the command"),
        (IN_IMAGE, False, True, "nothing that runs images", 'as "- python3 /home/me/score.py"'),
        (HERE, False, False, "may not have this machine run", "KAITOFLOW_ALLOW_COMMANDS=true"),
    ],
)
def test_a_command_that_cannot_be_run_there_is_refused_with_what_can(
    command: GateCommand, is_cluster: bool, allow_commands: bool, found: str, fix: str
) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        expect_runnable(command, is_cluster=is_cluster, allow_commands=allow_commands)
    assert found in refused.value.found
    assert fix in refused.value.fix


def test_of_what_a_command_says_the_last_line_of_json_is_kept() -> None:
    heard = Heard()
    for line in ("begins", '{"a": 1}', "goes on", '{"b": 2}', "", "is done"):
        heard.hear(line)
    assert heard.scores == '{"b": 2}'


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    heard = Heard()
    for line in ("begins", "one", "two", "three", ""):
        heard.hear(line)
    with pytest.raises(GateCommandFailed, match=r"with exit code 2 .*: one \| two \| three\)"):
        raise heard.failure("with exit code 2")


def test_a_command_that_says_without_end_is_refused() -> None:
    heard = Heard()
    for _ in range(3):
        heard.hear("x" * (MOST_CHARS // 4))
    with pytest.raises(GateCommandUnusable, match="more than 4 MiB"):
        heard.hear("x" * (MOST_CHARS // 4))


def test_where_nothing_serves_a_command_is_told_of_nothing_that_does() -> None:
    places = {"rows": Path("/r"), "weights": Path("/w"), "candidate": Path("/c")}
    told = dict(environment_of(**places, serving=None))
    assert told == {
        "KAITOFLOW_GATE_ROWS": "/r",
        "KAITOFLOW_GATE_WEIGHTS": "/w",
        "KAITOFLOW_GATE_CANDIDATE": "/c",
    }
    assert dict(environment_of(**places, serving=Path("/s")))["KAITOFLOW_GATE_SERVING"] == "/s"
