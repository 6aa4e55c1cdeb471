"""While a run is at work on a newer generation, its status says how what serves is doing."""

import asyncio
from typing import Any, cast

import pytest

from tasks.contract.status import SERVER_PAUSED, ConditionType, WorkspaceStatus
from tasks.contract.workspace import parse_workspace
from tasks.platform.following import Informers
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.settings import Settings
from tests.builders import tuning_manifest

Object = dict[str, Any]
READY = ConditionType.INFERENCE_READY
_LOOKS = 25
KEY = ("team", "tuned", "1", "inference")


class Pods:
    """The pods of the older generation's server, which come and go."""

    def __init__(self) -> None:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.there: list[Object] = [{"metadata": {"name": "tuned-0"}, "status": ready}]

    async def start(self) -> None:
        """They are known."""

    def select(self, key: object) -> list[Object]:
        return self.there if key == KEY else []

    async def wait(self, _key: object, *, timeout_s: float) -> None:
        await asyncio.sleep(0.02)


class ApiServer:
    """Has the Workspace and nothing else."""

    def __init__(self, manifest: Object) -> None:
        self.manifest = manifest

    async def get(self, *_about: Any) -> Object:
        return self.manifest

    async def find(self, *_about: Any, **_options: Any) -> list[Object]:
        return []

    async def create(self, *_about: Any) -> Object:
        return {}

    async def merge(self, *_about: Any, **_options: Any) -> Object:
        return {}


def serving(reason: str = "WorkspaceInferenceStatusSuccess") -> Object:
    """A Workspace of generation 2, of which generation 1 is served."""
    manifest = tuning_manifest("tuned")
    manifest["metadata"] |= {"namespace": "team", "uid": "1", "generation": 2}
    status = WorkspaceStatus(observed_generation=2)
    value = "True" if reason != SERVER_PAUSED else "False"
    status.set_condition(READY, status=cast("Any", value), reason=reason, generation=1)
    return manifest | {"status": status.model_dump(mode="json", by_alias=True)}


async def told(reason: str, pods: list[Object]) -> str:
    """The reason that the run's status gives for what serves, once its pods are these."""
    there, manifest = Pods(), serving(reason)
    platform = KubernetesPlatform(Settings())
    informer = cast("Informer", there)
    api = cast("KubeApi", ApiServer(manifest))
    platform._connection = (api, Informers(pods=informer, jobs=informer))
    workspace = parse_workspace(manifest, source="test")

    async def now() -> str:
        condition = (await platform.read_status(workspace)).condition(READY)
        assert condition
        return condition.reason

    async with platform.hold_run(workspace):
        there.there = pods
        for _ in range(_LOOKS):
            await asyncio.sleep(0.02)
            if await now() != reason:
                break
        return await now()


GOES = "WorkspaceInferenceStatusSuccess"


@pytest.mark.parametrize(
    ("reason", "pods", "expected"),
    [
        (GOES, Pods().there, GOES),
        (GOES, [], "WorkspaceInferenceStatusPending"),
        (SERVER_PAUSED, [], SERVER_PAUSED),
    ],
    ids=["it answers", "its pod is gone", "it pauses"],
)
async def test_what_serves_is_told_of_by_the_run_of_its_successor(
    reason: str, pods: list[Object], expected: str
) -> None:
    assert await told(reason, pods) == expected
