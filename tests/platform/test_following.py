"""Every line of a container's log is told once, however it comes."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from tasks.contract.errors import ContainerKilled, DeadlineExceeded, KaitoflowError
from tasks.platform.following import ContainerFollower, Informers
from tasks.platform.kube_api import KubeApi

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

    def select(self, _key: Any) -> list[dict[str, Any]]:
        return [self.over if len(self.pieces) <= 1 else RUNNING]

    async def find(self, *_about: str, **_options: Any) -> list[dict[str, Any]]:
        return []

    async def log(self, *_about: str, **_options: Any) -> AsyncGenerator[tuple[str, str]]:
        for line in self.pieces.pop(0):
            yield line


def follower_of(cluster: Cluster) -> ContainerFollower:
    informers = cast("Informers", type("Seen", (), {"pods": cluster, "jobs": cluster}))
    return ContainerFollower(cast("KubeApi", cluster), informers, key=KEY, container="tune")


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


async def test_what_is_sent_again_after_a_reconnection_is_told_once() -> None:
    first = [(f"{SECOND}.1Z", "one"), (f"{SECOND}.3Z", "three"), (f"{SECOND}.2Z", "two")]
    again = [*first, ("2026-11-27T19:21:17.0Z", "four")]
    assert await read(first, again) == ["one", "three", "two", "four"]


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
    follower = ContainerFollower(
        cast("KubeApi", None), cast("Informers", None), key=KEY, container="tune"
    )
    follower._error = ContainerKilled("it was asked to finish", "it did not", "try again")
    assert type(follower._of_failed(job, None)) is error
