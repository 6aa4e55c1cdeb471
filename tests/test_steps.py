"""What a container says becomes status, events and a log, and costs few writes."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks import steps
from tasks.contract.errors import DeadlineExceeded
from tasks.contract.podlog import Event
from tasks.contract.status import ConditionType, Progress, State, WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.workspace import Manifests, Workspace
from tasks.platform import base as platform_base
from tasks.platform.base import Pod
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tasks.steps import (
    Limit,
    change_status,
    recorded_step,
    run_container,
    tell,
    until_over,
    until_silent,
)
from tests.builders import tuning_workspace

HOUR_S = 3600.0


class Watched(LocalPlatform):
    """This machine; it counts the writes, and keeps the events."""

    progress_every_s = HOUR_S

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.written: list[Progress] = []
        self.events: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        self.written.append(status.progress)
        await super().write_status(workspace, status)

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_warning: bool
    ) -> None:
        self.events.append((reason, message))
        if is_warning:
            self.warnings.append(message)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched(Settings(home=tmp_path))
    monkeypatch.setattr(steps, "current_platform", lambda: watched)
    return watched


@pytest.fixture
def workspace(platform: Watched) -> Workspace:
    return platform.store.apply(Manifests(workspace=tuning_workspace()))


def progress(**fields: Any) -> Event:
    return {"event": "progress", **fields}


async def saying(*said: Event | str) -> AsyncGenerator[Event | str]:
    for each in said:
        yield each


def places(platform: Watched) -> list[tuple[str, int]]:
    return [(each.phase, each.step) for each in platform.written]


async def test_a_line_of_progress_does_not_cost_a_write_each(
    platform: Watched, workspace: Workspace
) -> None:
    lines = [progress(phase="train", step=step, steps=100, loss=1.0) for step in range(1, 100)]
    await tell(workspace, saying(*lines), step=StepName.TUNE)
    assert places(platform) == [("train", 1)]


async def test_the_last_step_is_shown_at_once_and_once(
    platform: Watched, workspace: Workspace
) -> None:
    lines = [progress(phase="train", step=step, steps=3, loss=1.0) for step in (1, 2, 3, 3)]
    await tell(workspace, saying(*lines), step=StepName.TUNE)
    assert places(platform) == [("train", 1), ("train", 3)]


async def test_another_phase_is_shown_at_once(platform: Watched, workspace: Workspace) -> None:
    lines = [progress(phase=phase) for phase in ("load", "load", "train", "train")]
    await tell(workspace, saying(*lines), step=StepName.TUNE)
    assert places(platform) == [("load", 0), ("train", 0)]


async def test_after_a_while_progress_is_shown_again(
    platform: Watched, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: Iterator[float] = itertools.count(0.0, HOUR_S / 2)
    monkeypatch.setattr(steps, "monotonic", lambda: next(moments))
    lines = [progress(phase="train", step=step, steps=100) for step in (1, 2, 3, 4)]
    await tell(workspace, saying(*lines), step=StepName.TUNE)
    assert [step for _, step in places(platform)] == [1, 3]


async def test_what_is_known_of_the_progress_stays_until_it_is_told_anew(
    platform: Watched, workspace: Workspace
) -> None:
    lines = [progress(phase="a", step=1, steps=9, loss=2.5), progress(phase="b", loss=None, odd=1)]
    await tell(workspace, saying(*lines), step=StepName.TUNE)
    expected = Progress(step_name="tune", phase="b", step=1, steps=9, loss=2.5)
    assert platform.written[-1] == expected


async def test_each_progress_that_is_shown_is_passed_on(
    platform: Watched, workspace: Workspace
) -> None:
    heard: list[Progress] = []

    async def listen(said: Progress) -> None:
        heard.append(said)

    lines = [progress(step=1, steps=9), progress(step=2, steps=9), progress(step=9, steps=9)]
    await tell(workspace, saying(*lines), step=StepName.TUNE, on_progress=listen)
    assert heard == platform.written
    assert [each.step for each in heard] == [1, 9]


async def test_the_last_result_is_what_a_container_answers(workspace: Workspace) -> None:
    first, last = ({"event": "result", "rows": rows} for rows in (1, 2))
    assert await tell(workspace, saying(first, "a line", last), step=StepName.DOWNLOAD) == last


async def test_lines_and_losses_are_in_the_log(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tasks.steps")
    await tell(
        workspace, saying("hello", progress(step=1, steps=2, loss=1.23456)), step=StepName.TUNE
    )
    assert caplog.messages == ["tune: hello", "tune: step=1 steps=2 loss=1.235"]


def turn(*kinds: ConditionType, value: Any, message: str) -> Any:
    def change(status: WorkspaceStatus) -> None:
        for kind in kinds:
            status.set_condition(kind, status=value, reason=f"{kind}Turned", message=message)

    return change


NODES = (ConditionType.NODES_READY, ConditionType.RESOURCE_READY)


async def test_conditions_that_turn_for_one_cause_are_one_event(
    platform: Watched, workspace: Workspace
) -> None:
    def change(status: WorkspaceStatus) -> None:
        turn(*NODES, value="True", message="gpu-1")(status)
        turn(ConditionType.ACCEPTED, value="True", message="all checks passed")(status)

    await change_status(workspace, change)
    assert platform.events == [
        ("ResourceReadyTurned", "NodesReady and ResourceReady are True: gpu-1"),
        ("AcceptedTurned", "Accepted is True: all checks passed"),
    ]


async def test_a_condition_that_stays_is_no_event(platform: Watched, workspace: Workspace) -> None:
    await change_status(workspace, turn(*NODES, value="False", message="none fits"))
    await change_status(workspace, turn(*NODES, value="False", message="none fits yet"))
    await change_status(workspace, turn(*NODES, value="True", message="gpu-1"))
    assert [message for _, message in platform.events] == [
        "NodesReady and ResourceReady are False: none fits",
        "NodesReady and ResourceReady are True: gpu-1",
    ]


async def test_a_failure_is_a_warning(platform: Watched, workspace: Workspace) -> None:
    def change(status: WorkspaceStatus) -> None:
        status.end_without(State.FAILED, reason="TrainingDiverged", message="m")

    await change_status(workspace, change)
    assert platform.warnings == ["WorkspaceSucceeded is False: m"]


async def test_a_step_is_under_way_and_then_one_finished_line(
    platform: Watched, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([10.0, 12.34])
    monkeypatch.setattr(steps, "monotonic", lambda: next(moments))
    async with recorded_step(workspace, StepName.PUSH) as step:
        assert (await platform.read_status(workspace)).progress == Progress(step_name="push")
        step.detail = "image"
    status = await platform.read_status(workspace)
    assert [(s.name, s.seconds, s.detail) for s in status.steps] == [("push", 2.3, "image")]
    assert status.progress == Progress()


async def test_a_step_that_is_done_again_is_one_line_in_its_new_place(
    platform: Watched, workspace: Workspace
) -> None:
    for name in (StepName.PROVISION, StepName.TUNE, StepName.PROVISION):
        async with recorded_step(workspace, name):
            pass
    status = await platform.read_status(workspace)
    assert [step.name for step in status.steps] == ["tune", "provision"]


async def test_a_step_that_fails_is_not_told_as_finished_and_stays_where_it_was(
    platform: Watched, workspace: Workspace
) -> None:
    with pytest.raises(ValueError, match="no"):
        async with recorded_step(workspace, StepName.TUNE):
            raise ValueError("no")
    status = await platform.read_status(workspace)
    assert (status.steps, status.progress) == ([], Progress(step_name="tune"))


QUICK = Settings(step_silence_timeout_s=0.05, job_timeout_s=60)


class Container:
    """Says some things, then neither ends nor says anything; `left`: whether it was let go."""

    def __init__(self, *said: Event | str, pause_s: float = 0.0) -> None:
        self.said, self.pause_s = said, pause_s
        self.left, self.ended = False, 0

    async def lines(self) -> AsyncGenerator[Event | str]:
        try:
            for each in self.said:
                await asyncio.sleep(self.pause_s)
                yield each
            await asyncio.Event().wait()
        finally:
            self.left = True

    async def end(self) -> None:
        self.ended += 1

    async def heard(self) -> list[Event | str]:
        found: list[Event | str] = []
        with pytest.raises(DeadlineExceeded, match="KAITOFLOW_STEP_SILENCE_TIMEOUT_S"):
            await self.hear(found)
        return found

    async def hear(self, found: list[Event | str]) -> None:
        async for said in until_silent(self.lines(), QUICK, step=StepName.DOWNLOAD, end=self.end):
            found.append(said)  # noqa: PERF401  it raises before the end


async def test_a_container_that_says_nothing_any_more_is_ended() -> None:
    container = Container(progress(step=1), "a; line")
    assert await container.heard() == [progress(step=1), "a; line"]
    assert (container.left, container.ended) == (True, 1)


BRIEF = Limit(seconds=0.1, whose="score in an image", setting="GATE_COMMAND_TIMEOUT_S")


async def heard_within(container: Container) -> list[Event | str]:
    found: list[Event | str] = []
    with pytest.raises(DeadlineExceeded, match=r"score in an image .*GATE_COMMAND_TIMEOUT_S"):
        await _hear(until_over(container.lines(), BRIEF, end=container.end), found)
    return found


async def _hear(lines: AsyncGenerator[Event | str], found: list[Event | str]) -> None:
    async for said in lines:
        found.append(said)  # noqa: PERF401  it raises before the end


async def test_a_container_that_talks_for_too_long_is_ended() -> None:
    container = Container(*(str(number) for number in range(100)), pause_s=0.02)
    assert 0 < len(await heard_within(container)) < 10
    assert (container.left, container.ended) == (True, 1)


async def test_what_a_container_waits_for_its_start_is_not_its_time() -> None:
    waiting: Event = {"event": "waiting", "phase": "its image is pulled"}
    container = Container(waiting, waiting, {"event": "started"}, pause_s=0.08)
    assert len(await heard_within(container)) == 3


async def test_each_line_of_log_counts_as_progress() -> None:
    lines = [str(number) for number in range(10)]
    assert await Container(*lines, pause_s=0.02).heard() == lines


async def test_silence_counts_from_the_start_on_not_while_a_pod_waits() -> None:
    waiting: Event = {"event": "waiting", "phase": "no node is free"}
    container = Container(waiting, {"event": "started"}, pause_s=0.04)
    assert len(await container.heard()) == 2
    still = Container(waiting)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(still.hear([]), 0.2)
    assert still.ended == 0


async def test_a_container_that_ends_is_left_as_it_is() -> None:
    container = Container()
    said = until_silent(saying("a", "b"), QUICK, step=StepName.TUNE, end=container.end)
    assert [each async for each in said] == ["a", "b"]
    assert container.ended == 0


async def test_what_a_waiting_pod_waits_for_is_shown(
    platform: Watched, workspace: Workspace
) -> None:
    await tell(workspace, saying({"event": "waiting", "phase": "no node"}), step=StepName.TUNE)
    assert places(platform) == [("no node", 0)]


async def test_an_error_of_the_container_s_own_is_no_silence() -> None:
    async def failing() -> AsyncGenerator[Event | str]:
        yield "a line"
        raise TimeoutError("of its own")

    container = Container()
    container.lines = failing  # type: ignore[method-assign]
    with pytest.raises(TimeoutError, match="of its own"):
        await container.hear([])
    assert container.ended == 0


@dataclass(frozen=True)
class Counted:
    """What a toy program answers."""

    rows: int


POD = Pod(
    name="tuning", containers=(platform_base.Container(name="count", program="toy", config=None),)
)


async def test_a_program_s_answer_is_typed(
    platform: Watched, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = saying(progress(phase="count"), {"event": "result", "rows": 3})
    monkeypatch.setattr(platform, "follow", lambda *_: said)
    answer = await run_container(workspace, POD, "count", answers=Counted, step=StepName.DOWNLOAD)
    assert answer == Counted(rows=3)
    assert places(platform) == [("count", 0)]


async def test_the_pod_of_a_silent_container_is_ended(
    platform: Watched, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def end(_workspace: Workspace, pod: Pod) -> None:
        ended.append(pod.name)

    monkeypatch.setattr(platform, "follow", lambda *_: Container().lines())
    monkeypatch.setattr(platform, "end", end)
    monkeypatch.setattr(steps, "settings", lambda: QUICK)
    with pytest.raises(DeadlineExceeded):
        await run_container(workspace, POD, "count", answers=Counted, step=StepName.DOWNLOAD)
    assert ended == ["tuning"]


async def test_a_change_of_the_status_gives_the_status(workspace: Workspace) -> None:
    status = await change_status(workspace, turn(*NODES, value="True", message="gpu-1"))
    assert status.is_true(ConditionType.NODES_READY)


class Told(Exception):
    """An error that says whether another try may help."""

    def __init__(self, *, retryable: bool) -> None:
        self.retryable = retryable


@pytest.mark.parametrize(
    ("data", "expected"),
    [(Told(retryable=True), True), (Told(retryable=False), False), (ValueError(), False)],
)
def test_a_step_is_tried_again_only_for_errors_that_say_so(data: Any, expected: bool) -> None:
    class State:
        pass

    state = State()
    state.data = data  # type: ignore[attr-defined]
    assert steps.again_may_help(None, None, state) is expected
