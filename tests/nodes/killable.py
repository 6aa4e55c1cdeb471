"""A worker's part of a Workspace's nodes, in processes that are killed at a call of theirs.

Run as `python -m tests.nodes.killable`: reads one Job a line, forks a process that does it, and
prints how that ended. Forked, since to import Azure's clients anew takes longer than the work.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client, config

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.aks.agent_pools import AgentPools, AksCluster
from tasks.nodes.aks.fulfiller import AksFulfiller
from tasks.nodes.claims.claiming import ClaimingProvisioner
from tasks.nodes.claims.deadlines import Deadlines
from tasks.nodes.claims.ledger import Ledger
from tasks.nodes.claims.unavailable import UnavailableOffers
from tasks.nodes.provisioner import NodeNeed, Waiting
from tasks.nodes.shared_look import SharedLook
from tasks.platform.kube_api import KubeApi
from tests.nodes.arm import CLUSTER, GROUP, Arm
from tests.nodes.test_agent_pools import client_of

_LOOK_AGAIN_S = 0.05
_PATIENT = Deadlines(
    launch_s=60, register_s=60, gpu_s=60, capacity_s=90, look_again_s=_LOOK_AGAIN_S
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process does, and the call at which it dies; None = it lives."""

    kubeconfig: str
    arm_url: str
    workspace: dict[str, Any]
    step: Literal["ensure", "release"]
    dies_at: int | None = None
    dies: Literal["before", "after"] = "before"


@dataclass(frozen=True, kw_only=True)
class End:
    """How a process ended: killed, at its last call, or by itself, well or with an error."""

    killed: bool
    calls: int = 0
    error: str = ""


def main() -> None:
    """Work off the jobs on standard input."""
    for line in sys.stdin:
        _tell(asdict(_forked(Job(**json.loads(line)))))


def _forked(job: Job) -> End:
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        try:
            end = asyncio.run(_work(job))
        except Exception as error:  # noqa: BLE001  told to who asked
            end = End(killed=False, error=f"{type(error).__name__}: {error}")
        os.write(there, json.dumps(asdict(end)).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return End(killed=True, calls=job.dies_at or 0)
    return End(**json.loads(told))


async def _work(job: Job) -> End:
    calls = count(1)
    _die_at_calls(calls, job)
    connection = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        job.kubeconfig, client_configuration=connection
    )
    api = KubeApi(client.ApiClient(connection))
    workspace = parse_workspace(job.workspace, source="test")
    async with client_of(Arm(url=job.arm_url)) as azure:
        pools = AgentPools(azure, AksCluster(resource_group=GROUP, name=CLUSTER))
        await _do(job.step, _provisioner(api, pools), workspace)
    await api.close()
    return End(killed=False, calls=next(calls) - 1)


def _die_at_calls(calls: Iterator[int], job: Job) -> None:
    """Both clouds' clients ask by aiohttp: a call is one of its requests."""
    ask = aiohttp.ClientSession._request

    async def asked(self: aiohttp.ClientSession, *arguments: Any, **named: Any) -> Any:
        is_last = next(calls) == job.dies_at
        if is_last and job.dies == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await ask(self, *arguments, **named)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    aiohttp.ClientSession._request = asked  # type: ignore[method-assign]


def connecting(api: KubeApi) -> Callable[[], Awaitable[KubeApi]]:
    """A connection that is there already, as the product asks for one."""

    async def connected() -> KubeApi:
        return api

    return connected


def fulfiller_of(api: KubeApi, pools: AgentPools) -> AksFulfiller:
    """The product's own, in a hurry."""
    alone = asyncio.Lock()
    return AksFulfiller(
        pools,
        connecting(api),
        list_nodes=lambda: api.find("Node"),
        writing=lambda: alone,
        installation="test",
        look_every_s=_LOOK_AGAIN_S,
    )


def _provisioner(api: KubeApi, pools: AgentPools) -> ClaimingProvisioner:
    async def nothing() -> list[Any]:
        return []

    connected = connecting(api)
    return ClaimingProvisioner(
        Ledger(connected),
        fulfiller_of(api, pools),
        UnavailableOffers(connected, namespace="default"),
        list_nodes=SharedLook(lambda: api.find("Node"), fresh_s=0.0),
        list_holders=nothing,
        list_workspaces=nothing,
        deadlines=_PATIENT,
        max_nodes=1000,
    )


async def _do(step: str, provisioner: ClaimingProvisioner, workspace: Workspace) -> None:
    async def on_waiting(_: Waiting) -> None:
        """Nobody reads it."""

    if step == "release":
        await provisioner.release(workspace)
        return
    need = NodeNeed(
        gpus=1,
        nodes=workspace.resource.count,
        labels=workspace.resource.label_selector.match_labels,
    )
    await provisioner.ensure_nodes(workspace, need, on_waiting=on_waiting)


def _tell(end: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(end) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
