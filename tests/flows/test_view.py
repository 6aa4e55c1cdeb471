"""What a run and its plan are told as in a terminal."""

from collections.abc import Callable

import pytest

from flows.commands.show import _print_table
from flows.view import print_plan, run_view
from tasks.contract.artifacts import Check, Plan
from tasks.contract.status import FinishedStep, WorkspaceStatus
from tests.builders import tuning_workspace

SAID = "rows [/x] of [red]a"


def show_step() -> None:
    workspace = tuning_workspace()
    step = FinishedStep(name="tune", seconds=1, detail=SAID)
    status = WorkspaceStatus(observed_generation=workspace.metadata.generation, steps=[step])
    with run_view(workspace) as view:
        view.show(status)


def show_plan() -> None:
    print_plan(Plan(checks=[Check(name="dataset", result="fail", detail="no", fix=SAID)]))
    print_plan(Plan(checks=[Check(name="dataset", result="ok", detail=SAID)]))


def show_table() -> None:
    _print_table("Steps", [{"STEP": "tune", "RESULT": SAID}])


@pytest.mark.parametrize("show", [show_step, show_plan, show_table])
def test_brackets_in_what_is_told_are_printed_as_they_are(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    assert SAID in capsys.readouterr().out
