"""An adapter that was tuned before is kept, and why is told in words."""

from pathlib import Path

import pytest

from tasks.contract.artifacts import Tuned
from tasks.contract.status import ConditionType
from tasks.tuning.task import keep_tuned
from tests.flows.retuned import image, tuned, work_here


async def test_an_adapter_that_is_kept_is_told_with_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = work_here(tmp_path, monkeypatch)
    workspace = await tuned(here)
    await keep_tuned.fn(workspace, Tuned(training="t", generation=2, image=image(1)), training="t")
    found = here.store.read_status(workspace).condition(ConditionType.JOB_STARTED)
    assert found
    assert found.message == "tuned in generation 2; nothing it depends on has changed"
