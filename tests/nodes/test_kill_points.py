"""Whenever a worker is killed, before or after any of its calls: no node is made twice, none stays.

Real are the API server, Azure's client, the processes and the SIGKILL; the ARM server loses
answers, is busy and throttles. Every Workspace's worker dies once, at a call drawn by chance.
"""

import asyncio
import json
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from tasks.nodes.aks.agent_pools import AgentPools, AksCluster
from tasks.nodes.claims.node_claim import CLAIM
from tasks.nodes.garbage.collector import GarbageCollector
from tasks.nodes.garbage.leaks import LeakKind
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import OWNER_LABEL
from tasks.skus.prices import price_table
from tests.cluster.control_plane import ControlPlane
from tests.nodes.arm import CLUSTER, GROUP, Arm, Fault, running_arm
from tests.nodes.azure import Azure
from tests.nodes.killable import End, Job, connecting, fulfiller_of
from tests.nodes.test_agent_pools import client_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

DEFINITION = Path(__file__).parents[2] / "deployments/crds/kaito.sh_workspaces.yaml"
CLUSTER_OF_POOLS = AksCluster(resource_group=GROUP, name=CLUSTER)
POINTS = 200
AT_ONCE = 4
SIZE = "Standard_NC24ads_A100_v4"
# What one call in a dozen is answered instead.
FAULTS = (
    ("PUT", Fault(lost=True)),
    ("PUT", Fault(429, "TooManyRequests", "slow down", {"Retry-After": "0"})),
    ("PUT", Fault(409, "OperationNotAllowed", "another operation is in progress")),
    ("GET", Fault(500)),
    ("DELETE", Fault(lost=True)),
    ("DELETE", Fault(412, "EtagMismatch", "it has changed")),
    ("LIST", Fault(500)),
)
Story = Literal[
    "while it claims",
    "while it claims, then deleted",
    "while it claims, then forgotten",
    "while it gives back",
]
STORIES: tuple[Story, ...] = get_args(Story)


@dataclass
class Workers:
    """Workers that are killed, for Workspaces of one cluster; what is wrong is collected."""

    api: KubeApi
    arm: Arm
    kubeconfig: str
    draw: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def live_through(self, processes: asyncio.Queue[asyncio.subprocess.Process]) -> None:
        """One Workspace's life, with one death in it."""
        story = self.draw.choice(STORIES)
        workspace = _workspace(nodes=self.draw.choice((1, 1, 2)))
        dies_at, dies = self.draw.randint(1, 24), self.draw.choice(("before", "after"))
        if self.draw.random() < 1 / 12:
            self.arm.fault(*self.draw.choice(FAULTS))
        process = await processes.get()
        try:
            await self._live(process, story, workspace, {"dies_at": dies_at, "dies": dies})
        except AssertionError as error:
            name = workspace["metadata"]["name"]
            self.wrong.append(f"{name} killed {story}, {dies} call {dies_at}: {error}")
        finally:
            processes.put_nowait(process)

    async def _live(
        self,
        process: asyncio.subprocess.Process,
        story: Story,
        workspace: dict[str, Any],
        death: dict[str, Any],
    ) -> None:
        async def do(step: str, **death: Any) -> None:
            job = Job(
                kubeconfig=self.kubeconfig,
                arm_url=self.arm.url,
                workspace=workspace,
                step=step,  # type: ignore[arg-type]
                **death,
            )
            end = await _done(process, job)
            assert not end.error, end.error
            self.killed[story] += end.killed

        if story == "while it gives back":
            await do("ensure")
            await do("release", **death)
        else:
            await do("ensure", **death)
        if story == "while it claims":
            await do("ensure")
            claims, pools = await self._left(workspace)
            wanted = workspace["resource"]["count"]
            assert len(claims) == wanted, f"{len(claims)} claims, {wanted} wanted"
            assert sorted(claims) == sorted(pools), f"pools {pools} for claims {claims}"
        if story == "while it claims, then forgotten":
            return  # the Workspace is gone, and whoever should have released it
        await do("release")
        assert await self._left(workspace) == ([], []), "something is left after its release"

    async def _left(self, workspace: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Names of the Workspace's claims and pools."""
        name = workspace["metadata"]["name"]
        claims = await self.api.find(CLAIM, labels={OWNER_LABEL: name})
        pools = self.arm.pools.items()
        labels = {key: pool["properties"]["nodeLabels"] for key, pool in pools}
        return (
            [claim["metadata"]["name"] for claim in claims],
            [key for key, given in labels.items() if given.get(OWNER_LABEL) == name],
        )


def _workspace(*, nodes: int) -> dict[str, Any]:
    name = f"w-{secrets.token_hex(4)}"
    labels = {"matchLabels": {"apps": name}}
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name, "namespace": "team", "uid": secrets.token_hex(8)},
        "resource": {"instanceType": SIZE, "count": nodes, "labelSelector": labels},
        "inference": {"preset": {"name": "smollm2-135m-instruct"}},
    }


async def _done(process: asyncio.subprocess.Process, job: Job) -> End:
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    return End(**json.loads(await process.stdout.readline()))


@asynccontextmanager
async def _processes() -> AsyncIterator[asyncio.Queue[asyncio.subprocess.Process]]:
    """Some that do one job after the other."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.nodes.killable"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(AT_ONCE)
    ]
    queue: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
    for process in started:
        queue.put_nowait(process)
    try:
        yield queue
    finally:
        for process in started:
            assert process.stdin
            process.stdin.close()
            await process.wait()


def _collector(api: KubeApi, pools: AgentPools) -> GarbageCollector:
    return GarbageCollector(
        connecting(api),
        fulfiller_of(api, pools),
        price_per_hour=price_table().price_per_hour,
        grace_s=0,
    )


async def test_two_hundred_deaths_leave_no_node_twice_and_none_behind(
    api: KubeApi, claims_server: ControlPlane
) -> None:
    definition = DEFINITION.read_text()
    await asyncio.to_thread(claims_server.define, "workspaces.kaito.sh", definition)
    seed = int(os.environ.get("KILL_POINT_SEED") or secrets.randbelow(10**6))
    print(f"KILL_POINT_SEED={seed}")  # noqa: T201  shown when it fails, to have it again
    async with running_arm(Arm()) as arm, client_of(arm) as client, _processes() as processes:
        Azure(api, arm, client, {})
        kubeconfig = str(claims_server.kubeconfig)
        workers = Workers(api, arm, kubeconfig, random.Random(seed))
        while workers.killed.total() < POINTS and not workers.wrong:
            lives = (workers.live_through(processes) for _ in range(2 * AT_ONCE))
            await asyncio.gather(*lives)
        assert workers.wrong == [], f"KILL_POINT_SEED={seed}"
        arm.faults.clear()
        collector = _collector(api, AgentPools(client, CLUSTER_OF_POOLS))
        forgotten = await collector.collect()
        assert {leak.kind for leak in forgotten} == {LeakKind.NO_WORKSPACE}
        assert not await collector.leaks()
        assert (await api.find(CLAIM, labels=MANAGED_BY), arm.pools) == ([], {})
    print(f"killed: {dict(workers.killed)}")  # noqa: T201
    assert set(workers.killed) == set(STORIES)
