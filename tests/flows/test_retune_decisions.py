"""What becomes of a candidate, by its gate and by who has the last word; and of a killed run."""

from pathlib import Path

import pytest

import flows.promote_adapter
import flows.retune_workspace
import tasks.steps
from flows.promote_adapter import promote
from flows.retune_workspace import decide, expect_tuned
from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.data_marks import DataMarks, FileMark
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.evaluation.verdict import Verdict
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_manifest

DATA = DataMarks(files=(FileMark(name="rows", etag="new"),), digest="new")
PASSES = Verdict(passed=True, reason="tuned@2 passes: it is better")
FAILS = Verdict(passed=False, reason="kept tuned@1: candidate's loss is worse")


def image(number: int) -> PublishedImage:
    return PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")


CANDIDATE = AdapterRecord(number=2, image=image(2), training="t", data="new")


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    here = LocalPlatform(Settings(home=tmp_path))
    for module in (flows.promote_adapter, flows.retune_workspace, tasks.steps):
        monkeypatch.setattr(module, "current_platform", lambda: here)
    return here


async def tuned(platform: LocalPlatform, **annotations: str) -> Workspace:
    """A Workspace with an adapter, and with a candidate that was just tuned."""
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {f"kaitoflow.io/{k}": v for k, v in annotations.items()}
    given = parse_workspace(manifest, source="test")
    workspace = platform.store.apply(Manifests(workspace=given))
    status = WorkspaceStatus(tuned=Tuned(training="t", generation=1, image=image(1)))
    platform.store.write_status(workspace, status)
    status = await expect_tuned(workspace)
    status.adapters.begin(DATA)
    platform.store.write_status(workspace, status)
    return workspace


def told(platform: LocalPlatform, workspace: Workspace) -> tuple[list[str], str]:
    """What became of each adapter, and the image that a repair would serve."""
    status = platform.store.read_status(workspace)
    assert status.tuned
    assert status.tuned.image
    return [record.fate for record in status.adapters.records], status.tuned.image.digest


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
    assert "waits for `kaitoflow promote tuned`" in (
        platform.store.read_status(workspace).adapters.told
    )


async def test_a_run_that_was_killed_and_begins_again_promotes_once(
    platform: LocalPlatform,
) -> None:
    workspace = await tuned(platform)
    for _ in range(2):
        await promote(workspace, CANDIDATE, by="gate", why="better")
    assert told(platform, workspace) == (["served", "serving"], "sha256:2")


async def test_the_history_keeps_to_its_bound(platform: LocalPlatform) -> None:
    workspace = await tuned(platform, **{"history-limit": "2"})
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
