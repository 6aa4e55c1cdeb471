"""A Workspace's time line: machines, nodes, steps and adapters, in the order in which they came."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.commands.show import describe_workspace, print_events
from flows.places.place import Place
from flows.timeline import time_line
from tasks.contract.adapter_history import AdapterRecord, Fate, Outcome
from tasks.contract.artifacts import PublishedImage
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.status import FinishedStep, WorkspaceStatus
from tasks.contract.workspace import Manifests
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_workspace

SKIPPED = Outcome.SKIPPED
IMAGE = PublishedImage(reference="registry.example.com/a:1", digest="sha256:1")
MACHINE = HeldMachine(
    name="wsa",
    instance_type="Standard_NC4as_T4_v3",
    capacity_type="spot",
    gpus=1,
    price_per_hour=0.5,
    since="2026-01-01T12:00:00Z",
    until="2026-01-01T14:00:00Z",
)


def event(at: str, reason: str, message: str, **more: object) -> RecordedEvent:
    return RecordedEvent.model_validate(
        {"at": f"2026-01-01T{at}Z", "reason": reason, "message": message, **more}
    )


def whole() -> WorkspaceStatus:
    status = WorkspaceStatus(cost=Cost(machines=[MACHINE]))
    done = "2026-01-01T13:00:00Z"
    status.steps = [FinishedStep(name="tune", seconds=12.5, detail="loss 3 to 1", finished=done)]
    status.adapters.records = [
        AdapterRecord(
            number=2,
            image=IMAGE,
            fate=Fate.KEPT_OUT,
            by="gate",
            why="no better",
            tuned="2026-01-01T13:00:01Z",
            decided="2026-01-01T13:30:00Z",
        )
    ]
    return status


def test_a_look_that_found_nothing_new_and_a_retuning_that_failed_belong_to_the_adapters() -> None:
    status = WorkspaceStatus()
    status.adapters.tell("skipped: the same", datetime(2026, 1, 1, tzinfo=UTC), outcome=SKIPPED)
    failed = event("11:00:00", "JudgeUnavailable", "Retuning failed: it is away")
    told = [(each.place, each.what, each.told) for each in time_line(status, [failed])]
    assert told == [
        ("adapter", "retuning", "skipped: the same"),
        ("adapter", "JudgeUnavailable", "Retuning failed: it is away"),
    ]


def test_everything_is_one_line_in_its_time() -> None:
    events = [
        event("11:59:00", "Accepted", "Accepted is True: all checks passed"),
        event("12:05:00", "NodesReady", "NodesReady and ResourceReady are True: n1"),
        event("13:40:00", "OutOfMemory", "WorkspaceSucceeded is False: too little; take more"),
        event("13:50:00", "RunAgain", "attempt 1: NodeLost", count=3, is_warning=True),
    ]
    told = [(each.place, each.what) for each in time_line(whole(), events)]
    assert told == [
        ("plan", "Accepted"),
        ("cloud", "claimed"),
        ("node", "NodesReady"),
        ("step", "tune"),
        ("adapter", "tuned"),
        ("adapter", "kept out"),
        ("run", "OutOfMemory"),
        ("run", "RunAgain (x3)"),
        ("cloud", "given back"),
    ]


def test_a_machine_is_told_with_what_it_has_cost_and_an_adapter_with_the_reason() -> None:
    told = {each.what: each.told for each in time_line(whole(), [])}
    assert told["claimed"] == "wsa: spot Standard_NC4as_T4_v3, $0.50 an hour"
    assert told["given back"] == "wsa: held for 2 h, $1.00"
    assert told["kept out"] == "adapter 2, by gate: no better"


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlatform:
    """A machine with one Workspace, at which the command line looks."""
    made = LocalPlatform(Settings(home=tmp_path))
    made.store.apply(Manifests(workspace=tuning_workspace()))
    monkeypatch.setattr("flows.places.local.settings", lambda: Settings(home=tmp_path))
    monkeypatch.setattr("flows.places.local.local_platform", lambda: made)
    return made


async def record(platform: LocalPlatform, reason: str, message: str) -> None:
    found = platform.store.find("default", "tuned")
    assert found
    await platform.record_event(found.workspace, reason=reason, message=message, is_warning=True)


def test_one_machine_keeps_what_happened_and_describe_and_events_tell_it(
    platform: LocalPlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "WorkspaceSucceeded is False: too little\ntake more"
    asyncio.run(record(platform, "OutOfMemory", told))
    here = Place(platform="local")
    describe_workspace("tuned", namespace=None, place=here)
    described = capsys.readouterr().out
    assert "Time line:" in described
    print_events(None, namespace=None, all_namespaces=True, watch=False, place=here)
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["WORKSPACE", "TIME", "PLACE", "WHAT", "TOLD"]
    assert line.split()[0] == "default/tuned"
    assert line.split()[2:5] == ["!", "run", "OutOfMemory"]
    assert line.endswith("too little; take more")


async def test_of_very_many_events_the_latest_are_kept(
    platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.platform.store._EVENTS_MAX", 3)
    for number in range(5):
        await record(platform, f"R{number}", "m")
    found = platform.store.find("default", "tuned")
    assert found
    kept = platform.store.read_events(found.workspace)
    assert [each.reason for each in kept] == ["R2", "R3", "R4"]
