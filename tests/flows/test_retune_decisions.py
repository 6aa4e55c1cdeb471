"""What becomes of a candidate, by its gate and by who has the last word; and of a killed run."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.decide_candidate import decide, try_candidate_out
from flows.promote_adapter import keep_out, promote, to_go_back_to
from flows.retune_workspace import expect_tuned
from tasks.contract.adapter_history import AdapterHistory
from tasks.contract.errors import AdapterNotFound, InvalidWorkspace
from tasks.contract.workspace import Manifests, parse_workspace
from tasks.platform.local import LocalPlatform
from tests.builders import tuning_manifest
from tests.flows.retuned import CANDIDATE, DATA, FAILS, PASSES, image, told, tuned, work_here


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    return work_here(tmp_path, monkeypatch)


async def test_a_candidate_that_passes_takes_the_place_of_what_serves(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform)
    await decide(workspace, CANDIDATE, PASSES)
    assert told(platform, workspace) == (["served", "serving"], "sha256:2")


async def test_a_candidate_that_does_not_is_kept_out_and_its_data_is_not_tried_again(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform)
    await decide(workspace, CANDIDATE, FAILS)
    assert told(platform, workspace) == (["serving", "kept out"], "sha256:1")
    adapters = platform.store.read_status(workspace).adapters
    assert (adapters.data, adapters.candidate) == (DATA, None)
    assert "candidate's loss is worse" in adapters.told


async def test_a_candidate_waits_where_a_person_has_the_last_word(platform: LocalPlatform) -> None:
    workspace = await tuned(platform, promotion="approve")
    await decide(workspace, CANDIDATE, PASSES)
    assert told(platform, workspace) == (["serving", "waiting"], "sha256:1")
    adapters = platform.store.read_status(workspace).adapters
    assert "waits for `kaitoflow promote tuned`" in adapters.told
    assert adapters.find(2).answer_by in adapters.told


async def test_a_person_refuses_a_candidate_that_waits_once_and_no_other(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform, promotion="approve")
    await decide(workspace, CANDIDATE, PASSES)
    for _ in range(2):  # a run that was killed
        waits = platform.store.read_status(workspace).adapters.find(2)
        await keep_out(workspace, waits, by="ana", why="it is rude")
    assert told(platform, workspace) == (["serving", "kept out"], "sha256:1")
    adapters = platform.store.read_status(workspace).adapters
    assert adapters.told.endswith("kept out tuned@2 by ana: it is rude")
    with pytest.raises(AdapterNotFound, match="waits for no word, it is serving"):
        await keep_out(workspace, adapters.find(1), by="ana", why="it is rude")


async def test_a_candidate_that_there_is_nothing_beside_to_try_serves_at_once(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform, promotion="canary")
    await decide(workspace, CANDIDATE, PASSES)
    assert told(platform, workspace) == (["serving", "on trial"], "sha256:1")
    for _ in range(2):
        await try_candidate_out(workspace)
    assert told(platform, workspace) == (["served", "serving"], "sha256:2")


async def test_a_run_that_was_killed_and_begins_again_promotes_once(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform)
    for _ in range(2):
        await promote(workspace, CANDIDATE, by="gate", why="better")
    assert told(platform, workspace) == (["served", "serving"], "sha256:2")


async def test_a_rollback_that_was_killed_and_begins_again_goes_back_once(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform)
    await promote(workspace, CANDIDATE, by="gate", why="better")
    due = datetime.now(UTC) + timedelta(seconds=1)
    for _ in range(2):
        adapters = platform.store.read_status(workspace).adapters
        back = to_go_back_to(adapters, str(workspace), due=due)
        assert back.number == 1
        adapters.promote(back.number, by="ana", why="rude", now=due + timedelta(seconds=2))
        status = platform.store.read_status(workspace)
        status.adapters = adapters
        platform.store.write_status(workspace, status)
    with pytest.raises(AdapterNotFound, match="none has served before"):
        to_go_back_to(AdapterHistory(), str(workspace), due=due)


async def test_the_history_keeps_to_its_bound(platform: LocalPlatform) -> None:
    bound: dict[str, Any] = {"history-limit": "2"}
    workspace = await tuned(platform, **bound)
    for number in (2, 3, 4):
        candidate = CANDIDATE.model_copy(update={"number": number, "image": image(number)})
        await decide(workspace, candidate, PASSES)
    records = platform.store.read_status(workspace).adapters.records
    assert [record.number for record in records] == [3, 4]


async def test_what_was_never_tuned_is_not_retuned(platform: LocalPlatform) -> None:
    given = parse_workspace(tuning_manifest(), source="test")
    workspace = platform.store.apply(Manifests(workspace=given))
    with pytest.raises(InvalidWorkspace, match="run it first"):
        await expect_tuned(workspace)
