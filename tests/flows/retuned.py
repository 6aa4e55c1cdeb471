"""A Workspace on this machine that was tuned, and a candidate to take its adapter's place."""

import sys
from datetime import datetime
from pathlib import Path

import pytest

from flows.retune_workspace import expect_tuned
from tasks.contract.adapter_history import AdapterRecord, Making
from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.data_marks import DataMarks, FileMark
from tasks.contract.programs.tuning import HeldOut, Sample
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.evaluation.verdict import Verdict
from tasks.platform.current import current_platform
from tasks.platform.local import LocalPlatform
from tasks.platform.store import Store
from tasks.settings import Settings
from tests.builders import tuning_manifest

DATA = DataMarks(files=(FileMark(name="rows", etag="new"),), digest="new")
PASSES = Verdict(
    passed=True,
    reason="tuned@2 passes: candidate's loss 2.741 is 0.249 better than 2.990 on 64 rows",
)
FAILS = Verdict(passed=False, reason="kept tuned@1: candidate's loss is worse")


def image(number: int) -> PublishedImage:
    return PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")


CANDIDATE = AdapterRecord(number=2, image=image(2), training="t", data="new")


def work_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    """This machine, with a home of its own, for what retuning does."""
    here = LocalPlatform(Settings(home=home))
    ours = [m for name, m in sys.modules.items() if name.startswith(("flows.", "tasks."))]
    for module in ours:
        if getattr(module, "current_platform", None) is current_platform:
            monkeypatch.setattr(module, "current_platform", lambda: here)
    return here


def held_out(loss: float, answer: str) -> HeldOut:
    sample = Sample(question="What does len do?", before="", after=answer)
    return HeldOut(rows=64, loss_before=3.787, loss_after=loss, sample=sample)


def waits_for_a_word(store: Store, name: str, *, answer_by: datetime) -> Workspace:
    """A Workspace that nothing serves, and of whose adapters the second waits for a word."""
    given = parse_workspace(tuning_manifest(name), source="test")
    workspace = store.apply(Manifests(workspace=given))
    first = Tuned(training="t", generation=1, image=image(1), held_out=held_out(2.990, "A length."))
    status = WorkspaceStatus(tuned=first)
    status.adapters.adopt(first)
    changed = {
        "held_out": held_out(2.741, "Returns the number of items."),
        "making": Making(seconds=241.0),
    }
    status.adapters.add(CANDIDATE.model_copy(update=changed), DATA)
    status.adapters.await_word(2, why=PASSES.reason.replace("tuned", name), answer_by=answer_by)
    store.write_status(workspace, status)
    return workspace


async def tuned(
    platform: LocalPlatform, *, first: PublishedImage | None = None, **annotations: str
) -> Workspace:
    """A Workspace with an adapter, and with a candidate that was just tuned."""
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {f"kaitoflow.io/{k}": v for k, v in annotations.items()}
    given = parse_workspace(manifest, source="test")
    workspace = platform.store.apply(Manifests(workspace=given))
    status = WorkspaceStatus(tuned=Tuned(training="t", generation=1, image=first or image(1)))
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
