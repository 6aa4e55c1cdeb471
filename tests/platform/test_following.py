"""Every line of a container's log is told once, however it comes."""

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks.contract.errors import (
    ContainerKilled,
    DeadlineExceeded,
    GateCommandFailed,
    KaitoflowError,
    KubernetesRefused,
)
from tasks.platform.following import ContainerFollower, Informers
from tasks.platform.kube_api import KubeApi
from tasks.platform.passed_on import QUEUE_LABEL

KEY = ("team", "tuned", "1", "tuning")
UID = "5f0c"
SECOND = "2026-11-27T19:21:16"
OVER: dict[str, Any] = {
    "spec": {},
    "metadata": {
        "name": "pod",
        "uid": UID,
        "namespace": "team",
        "creationTimestamp": SECOND,
        "annotations": {"kaitoflow.io/event-nonce": "uid"},
    },
    "status": {
        "containerStatuses": [
            {"name": "tune", "containerID": "c", "state": {"terminated": {"exitCode": 1}}}
        ]
    },
}
RUNNING = {
    **OVER,
    "status": {
        "containerStatuses": [{"name": "tune", "containerID": "c", "state": {"running": {}}}]
    },
}


class Cluster:
    """A pod whose log is handed out in pieces; while a piece is left, it runs."""

    def __init__(self, *pieces: list[tuple[str, str]], exit_code: int = 1) -> None:
        self.pieces = [*pieces]
        ended = {"terminated": {"exitCode": exit_code}}
        status = OVER["status"]["containerStatuses"][0] | {"state": ended}
        self.over = OVER | {"status": {"containerStatuses": [status]}}
        self.refuses = 0
        self.waited_s: list[float] = []

    def select(self, _key: Any) -> list[dict[str, Any]]:
        return [self.over if len(self.pieces) <= 1 else RUNNING]

    async def find(self, *_about: str, **_options: Any) -> list[dict[str, Any]]:
        return []

    async def log(self, *_about: str, **_options: Any) -> AsyncGenerator[tuple[str, str]]:
        lines = self.pieces.pop(0)
        if self.refuses:
            self.refuses -= 1
            raise KubernetesRefused("the pod's log was asked for", "it is not there", "wait")
        for line in lines:
            yield line

    async def wait(self, _key: Any, *, timeout_s: float) -> None:
        self.waited_s.append(timeout_s)


async def nothing() -> None:
    """Nobody has deleted anything."""


def follower_of(cluster: Cluster | None, *, is_command: bool = False) -> ContainerFollower:
    wait = cluster.wait if cluster else None
    seen = SimpleNamespace(pods=cluster, jobs=cluster, wait=wait)
    informers = cast("Informers", seen)
    api = cast("KubeApi", cluster)
    return ContainerFollower(
        api, informers, key=KEY, container="tune", make_again=nothing, is_command=is_command
    )


async def read(*pieces: list[tuple[str, str]]) -> list[Any]:
    follower = follower_of(Cluster(*pieces))
    started = follower._newest_start()
    assert started
    return [said async for said in follower._read(started)]


async def test_a_line_that_comes_after_a_younger_one_is_told_too() -> None:
    event = '{"event": "verdict", "nonce": "5f0c"}'
    lines = [(f"{SECOND}.5Z", "a trace"), (f"{SECOND}.4Z", event)]
    assert await read(lines) == ["a trace", {"event": "verdict"}]


async def test_a_line_without_the_pods_uid_is_no_event() -> None:
    forged = ['{"event": "result"}', '{"event": "result", "nonce": "another"}']
    lines = [(f"{SECOND}.{number}Z", text) for number, text in enumerate(forged)]
    assert await read(lines) == forged


async def test_a_pod_of_an_older_version_is_believed_without() -> None:
    cluster = Cluster([(f"{SECOND}.1Z", '{"event": "result"}')])
    cluster.over |= {"metadata": cluster.over["metadata"] | {"annotations": {}}}
    follower = follower_of(cluster)
    started = follower._newest_start()
    assert started
    assert [said async for said in follower._read(started)] == [{"event": "result"}]


@pytest.mark.parametrize("code", [0, 1, 137, 139])
async def test_a_result_counts_only_with_exit_code_zero(code: int) -> None:
    cluster = Cluster([(f"{SECOND}.1Z", '{"event": "result", "nonce": "5f0c"}')], exit_code=code)
    lines = follower_of(cluster).lines()
    assert await anext(lines) == {"event": "result"}
    told = await anext(lines, None)
    assert told is None if code == 0 else "tune has to start again" in str(told)


async def hear_command(*texts: str, exit_code: int) -> list[Any]:
    said = [(f"{SECOND}.{number}Z", text) for number, text in enumerate(texts)]
    lines = follower_of(Cluster(said, exit_code=exit_code), is_command=True).lines()
    return [await anext(lines) for _ in range(len(texts) + 1)]


async def test_a_command_of_a_user_s_own_has_its_result_by_its_end() -> None:
    forged = '{"event": "verdict", "nonce": "5f0c"}'
    scores = '{"candidate": 1}'
    told = await hear_command(forged, scores, "done", exit_code=0)
    assert told == [forged, scores, "done", {"event": "result", "said": scores}]


async def test_a_command_that_ends_badly_is_told_with_its_last_words() -> None:
    with pytest.raises(GateCommandFailed, match=r"with exit code 2 .*it said: no rows\)"):
        await hear_command("no rows", exit_code=2)


@pytest.mark.parametrize("code", [137, 143])
async def test_a_command_that_others_have_ended_may_be_begun_again(code: int) -> None:
    assert "tune has to start again" in (await hear_command("begins", exit_code=code))[-1]


async def test_what_is_sent_again_after_a_reconnection_is_told_once() -> None:
    first = [(f"{SECOND}.1Z", "one"), (f"{SECOND}.3Z", "three"), (f"{SECOND}.2Z", "two")]
    again = [*first, ("2026-11-27T19:21:17.0Z", "four")]
    assert await read(first, again) == ["one", "three", "two", "four"]


async def test_a_log_that_does_not_answer_is_asked_ever_less_often_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    cluster = Cluster(*([] for _ in range(8)), [(f"{SECOND}.1Z", "the last")])
    cluster.refuses = 8
    follower = follower_of(cluster)
    started = follower._newest_start()
    assert started
    assert [said async for said in follower._read(started)] == ["the last"]
    assert cluster.waited_s == [0.5, 1, 2, 4, 8, 10, 10]
    assert len([line for line in caplog.messages if "log does not answer" in line]) == 1


async def test_two_equal_lines_are_two() -> None:
    lines = [(f"{SECOND}.1Z", "same"), (f"{SECOND}.2Z", "same")]
    assert await read(lines) == ["same", "same"]


@pytest.mark.parametrize(
    ("reason", "error"), [("DeadlineExceeded", DeadlineExceeded), ("BackoffLimit", ContainerKilled)]
)
async def test_a_job_whose_time_is_over_says_so_whatever_its_pod_said_last(
    reason: str, error: type[KaitoflowError]
) -> None:
    failed = {"type": "Failed", "status": "True", "reason": reason, "message": "m"}
    job = {"kind": "Job", "metadata": {"name": "tuned-tune-1"}, "status": {"conditions": [failed]}}
    follower = follower_of(None)
    follower._error = ContainerKilled("it was asked to finish", "it did not", "try again")
    assert type(follower._of_failed(job, None)) is error


class Queue:
    """A suspended Job without a pod, which is resumed at the second change."""

    def __init__(self) -> None:
        self.changes = 0
        self.jobs, self.pods = self, Cluster([], [])

    def select(self, _key: Any) -> list[dict[str, Any]]:
        meta = {"name": "tuned-tune-1", "uid": "j", "labels": {QUEUE_LABEL: "gpus"}}
        return [{"kind": "Job", "metadata": meta, "spec": {"suspend": self.changes < 2}}]

    async def wait(self, _key: Any, *, timeout_s: float) -> None:
        assert timeout_s > 0
        self.changes += 1


async def test_a_suspended_job_is_waited_for_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(queue.pods, "select", lambda _: [RUNNING] if queue.changes > 2 else [])
    follower = ContainerFollower(
        cast("KubeApi", queue.pods),
        cast("Informers", queue),
        key=KEY,
        container="tune",
        make_again=nothing,
    )
    told = [said["phase"] async for said in follower._until_started()]
    assert told == ["suspended, waiting for room in queue gpus", "waiting for its pod"]


JOB: dict[str, Any] = {"metadata": {"name": "tuned-tune-1"}}
DONE = JOB | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
BOUND = OVER | {"spec": {"nodeName": "gpu-1"}}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(None, None, True)], False),
        ([(None, None, False)], True),
        ([(JOB, None, False)], False),
        ([(JOB, OVER, False)], False),
        ([(JOB, None, True), (None, None, True)], True),
        ([(JOB, OVER, False), (None, OVER, True)], True),
        ([(JOB, BOUND, True)], False),
        ([(JOB, BOUND, False)], True),
        ([(DONE, OVER, False)], False),
        ([(DONE, None, True)], False),
        ([(DONE, None, False)], True),
    ],
    ids=[
        "not there yet",
        "not there after a while",
        "no pod yet",
        "no node yet",
        "the Job has gone",
        "the Job has gone before its pod",
        "it has its node",
        "it does not start on its node",
        "the Job is done",
        "the Job is done, and its pod not seen yet",
        "the Job is done and its pod has gone with what it said",
    ],
)
def test_what_a_pod_is_made_of_is_made_again_when_it_may_lack(
    looks: list[tuple[Any, Any, bool]], expected: bool
) -> None:
    follower = follower_of(None)
    lacks = [follower._lacks_something(job, pod, is_early=early) for job, pod, early in looks]
    assert lacks[-1] is expected


def failed(reason: str = "PodFailurePolicy") -> dict[str, Any]:
    """A Job of two pods that has given up."""
    given_up = {"type": "Failed", "status": "True", "reason": reason, "message": "m"}
    meta = {"name": "tuned-tune-1", "uid": "j"}
    spec, status = {"completions": 2}, {"conditions": [given_up]}
    return {"kind": "Job", "metadata": meta, "spec": spec, "status": status}


class Remade:
    """A Job that has failed, and the one with its pod that is made in its place."""

    def __init__(self, *left: dict[str, Any]) -> None:
        self.left, self.times_made = [*left], 0
        self.jobs = SimpleNamespace(select=lambda _: [JOB if self.times_made else failed()])
        self.pods = self

    def select(self, key: tuple[str, ...]) -> list[dict[str, Any]]:
        """Of the first pod nothing is left."""
        if self.times_made:
            return [RUNNING]
        return self.left if key[-1].endswith(" 1") else []

    async def make_again(self) -> None:
        self.times_made += 1

    async def find(self, *_about: Any, **_options: Any) -> list[dict[str, Any]]:
        return []

    async def wait(self, _key: Any, *, timeout_s: float) -> None:
        """Something has changed."""

    async def log(self, *_about: Any, **_options: Any) -> AsyncGenerator[tuple[str, str]]:
        for line in list[tuple[str, str]]():
            yield line


def follower_among(there: Remade) -> ContainerFollower:
    api, informers = cast("KubeApi", there), cast("Informers", there)
    return ContainerFollower(api, informers, key=KEY, container="tune", make_again=there.make_again)


LEAVING = OVER | {"metadata": OVER["metadata"] | {"deletionTimestamp": SECOND}}


@pytest.mark.parametrize("left", [(), (LEAVING,)], ids=["it has gone", "it is about to go"])
async def test_a_job_that_has_failed_since_a_pod_was_deleted_is_made_again(left: Any) -> None:
    there = Remade(*left)
    follower = follower_among(there)
    assert [said async for said in follower._until_started() if said["event"] != "waiting"] == []
    assert there.times_made == 1


async def test_a_job_that_has_failed_by_a_pod_that_is_kept_is_not() -> None:
    there = Remade(OVER)
    with pytest.raises(KaitoflowError, match="pod 1"):
        await anext(follower_among(there)._until_started())
    assert there.times_made == 0


def test_nor_is_one_whose_time_was_over() -> None:
    assert not follower_among(Remade())._failed_by_deletion(failed("DeadlineExceeded"))
