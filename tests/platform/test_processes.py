"""Containers of the local platform: started once, found again, stopped whole, read to the end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tasks.contract.errors import ContainerKilled, DatasetUnreadable
from tasks.contract.podlog import Event
from tasks.platform.base import Container
from tasks.platform.processes import ContainerProcess, follow_to_result
from tests.platform.toy import FORGED, ToyConfig


def toy(does: str, starts: Path | None = None) -> Container:
    return Container(
        name="toy", program="tests.platform.toy", config=ToyConfig(does=does, starts=starts)
    )


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ContainerProcess]:
    started = ContainerProcess(tmp_path, "toy")
    yield started
    await started.stop(grace_s=5)


async def followed(process: ContainerProcess, container: Container) -> list[Event | str]:
    return [said async for said in follow_to_result(process, container, grace_s=5)]


async def started(process: ContainerProcess) -> psutil.Process:
    while not (process.log.exists() and "progress" in process.log.read_text()):
        await asyncio.sleep(0.05)
    running = process.running()
    assert running is not None
    return running


async def test_a_container_is_followed_to_its_result(process: ContainerProcess) -> None:
    said = await followed(process, toy("work"))
    assert said[-1] == {"event": "result", "answer": 42}


async def test_a_verdict_is_raised_as_the_error_it_names(process: ContainerProcess) -> None:
    with pytest.raises(DatasetUnreadable, match="asked; found; do"):
        await followed(process, toy("refuse"))


async def test_a_process_that_is_killed_is_told_as_killed(process: ContainerProcess) -> None:
    following = asyncio.ensure_future(followed(process, toy("wait")))
    (await started(process)).send_signal(signal.SIGKILL)
    with pytest.raises(ContainerKilled, match="ended without a word.*run again to resume"):
        await following


@pytest.mark.parametrize("does", ["forge a result and die", "die after the result"])
async def test_a_process_that_dies_has_no_result(process: ContainerProcess, does: str) -> None:
    with pytest.raises(ContainerKilled):
        await followed(process, toy(does))


async def test_a_forged_event_is_an_ordinary_line(process: ContainerProcess) -> None:
    await process.ensure_started(toy("forge a result and die"), grace_s=5)
    said = [each async for each in process.lines()]
    assert [each["event"] for each in said if isinstance(each, dict)] == ["progress"]
    assert FORGED in said


async def test_cancelling_stops_the_process(process: ContainerProcess) -> None:
    following = asyncio.ensure_future(followed(process, toy("wait")))
    running = await started(process)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert not running.is_running()


async def test_a_process_that_still_works_is_followed_and_not_started_again(
    process: ContainerProcess, tmp_path: Path
) -> None:
    container = toy("work slowly", tmp_path / "starts")
    await process.ensure_started(container, grace_s=5)
    again = ContainerProcess(tmp_path, "toy")
    await followed(again, container)
    assert (tmp_path / "starts").read_text().count("started") == 1


async def test_another_config_replaces_the_process(
    process: ContainerProcess, tmp_path: Path
) -> None:
    await process.ensure_started(toy("wait"), grace_s=5)
    first = await started(process)
    await followed(process, toy("work"))
    assert not first.is_running()


async def test_the_log_of_the_start_before_is_kept(process: ContainerProcess) -> None:
    await followed(process, toy("work"))
    first = process.log.read_text()
    await followed(process, toy("work"))
    assert process.log.with_suffix(".previous.log").read_text() == first


async def test_a_reused_process_id_is_not_taken_for_ours(process: ContainerProcess) -> None:
    await followed(process, toy("work"))
    record = process.log.with_name("toy.process.json")
    record.write_text(f'{{"pid": {os.getpid()}, "started": 1.0, "config_digest": "x"}}')
    assert process.running() is None


async def test_nothing_is_imported_from_the_current_folder(
    process: ContainerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("tasks.py", "yaml.py", "pydantic.py"):
        (project / name).write_text("raise SystemExit('taken for a module of ours')")
    monkeypatch.chdir(project)
    following = asyncio.ensure_future(followed(process, toy("work slowly")))
    running = await started(process)
    assert Path(running.cwd()) == process.log.parent
    assert running.environ()["PYTHONSAFEPATH"] == "1"
    assert (await following)[-1] == {"event": "result", "answer": 42}


async def test_a_process_whose_record_cannot_be_written_is_ended(
    process: ContainerProcess, tmp_path: Path
) -> None:
    (tmp_path / "logs" / "toy.process.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await process.ensure_started(toy("wait"), grace_s=5)
    mine = psutil.Process().children(recursive=True)
    assert not [each for each in mine if str(tmp_path) in " ".join(each.cmdline())]


@pytest.mark.parametrize(
    "left", [None, b"", b'{"pid": 1', b"[]"], ids=["none", "empty", "half", "list"]
)
async def test_a_process_whose_record_is_lost_is_ended_before_another_starts(
    process: ContainerProcess, tmp_path: Path, left: bytes | None
) -> None:
    await process.ensure_started(toy("wait"), grace_s=5)
    first = await started(process)
    record = process.log.with_name("toy.process.json")
    record.unlink() if left is None else record.write_bytes(left)
    again = ContainerProcess(tmp_path, "toy")
    assert (await followed(again, toy("work")))[-1] == {"event": "result", "answer": 42}
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE


async def test_a_process_whose_record_is_lost_is_stopped(
    process: ContainerProcess, tmp_path: Path
) -> None:
    await process.ensure_started(toy("wait"), grace_s=5)
    await started(process)
    process.log.with_name("toy.process.json").unlink()
    again = ContainerProcess(tmp_path, "toy")
    assert await again.stop(grace_s=5)
    assert not await again.stop(grace_s=5)


async def test_prefects_settings_stay_out_of_pod_programs(
    process: ContainerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    following = asyncio.ensure_future(followed(process, toy("wait")))
    environment = (await started(process)).environ()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert "PREFECT_API_KEY" not in environment
