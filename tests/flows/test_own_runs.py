"""Of a command that was killed the runs are ended in Prefect by whoever comes next."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from flows.own_runs import cancel_own_runs, end_runs_of_killed, own_tag
from flows.places.local_run import FlowThread
from flows.prefect_api import PrefectApi, Run
from flows.prefect_server import PrefectServer
from tasks.settings import settings
from tests.builders import tuning_workspace

MINE = PrefectServer("http://127.0.0.1:4200/api")
COMMAND = """
import sys
from flows.own_runs import own_tag
from flows.prefect_server import PrefectServer
with own_tag(PrefectServer("http://127.0.0.1:4200/api")) as tag:
    print(tag, flush=True)
    sys.stdin.read()
"""


class Prefect(PrefectApi):
    """A server that has runs by their tags, and notes how each was ended."""

    def __init__(self, *runs: Run) -> None:
        self.runs, self.ended = runs, dict[str, str]()

    async def runs_with(self, tags: list[str]) -> list[Run]:  # type: ignore[override]
        return [run for run in self.runs if {*tags} <= {*run.tags}]

    async def alive_runs(self, tag: str) -> list[Run]:
        return [run for run in await self.runs_with([tag]) if not run.has_ended]

    async def end(self, run: Run, kind: str, *, name: str = "", message: str) -> None:
        self.ended[run.name] = f"{kind}: {message}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


@contextmanager
def command() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A command that lives, with the tag of its runs."""
    lives = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with lives:
        assert lives.stdout
        yield lives, lives.stdout.readline().strip()
        lives.kill()


def run(name: str, tag: str, state: str = "RUNNING") -> Run:
    return Run(id=uuid4(), name=name, state_type=state, tags=[tag])


async def test_a_command_that_lives_keeps_its_runs_and_one_that_was_killed_does_not() -> None:
    with command() as (lives, tag):
        prefect = Prefect(
            run("tune", tag), run("done", tag, "COMPLETED"), run("other", "command:x")
        )
        await end_runs_of_killed(prefect, MINE)
        assert prefect.ended == {}
        lives.kill()
        lives.wait()
        await end_runs_of_killed(prefect, MINE)
    told = "CRASHED: its command was killed; give it again, and it goes on with what is there"
    assert prefect.ended == {"tune": told}
    again = Prefect(run("tune", tag))
    await end_runs_of_killed(again, MINE)
    assert again.ended == {}


async def test_what_another_server_keeps_is_left_to_who_comes_there() -> None:
    with command() as (lives, tag):
        lives.kill()
        lives.wait()
        prefect = Prefect(run("tune", tag))
        await end_runs_of_killed(prefect, PrefectServer("http://elsewhere/api"))
        assert prefect.ended == {}
        await end_runs_of_killed(prefect, MINE)
    assert [*prefect.ended] == ["tune"]


async def test_a_command_that_has_ended_leaves_nothing() -> None:
    with own_tag(MINE) as tag:
        pass
    prefect = Prefect(run("tune", tag))
    await end_runs_of_killed(prefect, MINE)
    assert prefect.ended == {}
    assert [*(settings().home_dir / "prefect" / "commands").iterdir()] == []


async def test_of_a_command_that_a_person_interrupts_each_run_that_was_under_way_is_cancelled() -> (
    None
):
    states = ("RUNNING", "CRASHED", "COMPLETED", "FAILED")
    prefect = Prefect(*(run(state, "mine", state) for state in states))
    await cancel_own_runs(prefect, "mine")
    assert [*prefect.ended] == ["RUNNING", "CRASHED"]


def test_each_run_of_a_command_has_its_tag_also_where_the_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    found = set[str]()

    async def begin() -> None:
        from prefect.context import TagsContext

        found.update(TagsContext.get().current_tags)

    with own_tag(MINE) as tag:
        flow = FlowThread(tuning_workspace(), begin, tag=tag, server=MINE)
        flow.start()
        flow.join()
    assert flow.error is None
    assert found == {tag}
