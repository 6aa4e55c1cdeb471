"""Every line of a container's log is told once, however it comes."""

from collections.abc import AsyncGenerator
from typing import Any, cast

from tasks.platform.following import ContainerFollower, Informers
from tasks.platform.kube_api import KubeApi

KEY = ("team", "tuned", "1", "tuning")
SECOND = "2026-11-27T19:21:16"
OVER = {
    "metadata": {"name": "pod", "namespace": "team", "creationTimestamp": SECOND},
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

    def __init__(self, *pieces: list[tuple[str, str]]) -> None:
        self.pieces = [*pieces]

    def select(self, _key: Any) -> list[dict[str, Any]]:
        return [OVER if len(self.pieces) <= 1 else RUNNING]

    async def log(self, *_about: str, **_options: Any) -> AsyncGenerator[tuple[str, str]]:
        for line in self.pieces.pop(0):
            yield line


async def read(*pieces: list[tuple[str, str]]) -> list[Any]:
    cluster = Cluster(*pieces)
    informers = cast("Informers", type("Seen", (), {"pods": cluster, "jobs": cluster}))
    follower = ContainerFollower(cast("KubeApi", cluster), informers, key=KEY, container="tune")
    started = follower._newest_start()
    assert started
    return [said async for said in follower._read(started)]


async def test_a_line_that_comes_after_a_younger_one_is_told_too() -> None:
    lines = [(f"{SECOND}.5Z", "a trace"), (f"{SECOND}.4Z", '{"event": "verdict"}')]
    assert await read(lines) == ["a trace", {"event": "verdict"}]


async def test_what_is_sent_again_after_a_reconnection_is_told_once() -> None:
    first = [(f"{SECOND}.1Z", "one"), (f"{SECOND}.3Z", "three"), (f"{SECOND}.2Z", "two")]
    again = [*first, ("2026-11-27T19:21:17.0Z", "four")]
    assert await read(first, again) == ["one", "three", "two", "four"]


async def test_two_equal_lines_are_two() -> None:
    lines = [(f"{SECOND}.1Z", "same"), (f"{SECOND}.2Z", "same")]
    assert await read(lines) == ["same", "same"]
