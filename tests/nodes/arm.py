"""Speaks Azure Resource Manager's routes of agent pools, quotas and sizes, and fails as Azure does.

One cluster's pools, kept in memory. `faults` are taken one by one by the next calls of a route;
`fails_with` lets pools of a size be taken up and fail later, as Azure mostly does.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from azure.mgmt.containerservice.models import GPUDriver, ManagementMode

SUBSCRIPTION, GROUP, CLUSTER, LOCATION = (
    "11111111-2222-3333-4444-555555555555",
    "team",
    "gpus",
    "eastus",
)
_CLUSTER = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/"
    f"Microsoft.ContainerService/managedClusters/{CLUSTER}"
)
_COMPUTE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute"
Object = dict[str, Any]
PoolHook = Callable[[Object], Awaitable[None]]


@dataclass
class Fault:
    """What a call is answered instead.

    lost: it is carried out, and no answer comes. text: the answer itself, in place of Azure's form.
    """

    status: int = 500
    code: str = "InternalServerError"
    message: str = "something went wrong"
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    text: str | None = None


@dataclass
class Arm:
    """The cluster's pools, and what was asked of them."""

    url: str = ""
    pools: dict[str, Object] = field(default_factory=dict)
    puts: list[Object] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    fails_with: dict[str, str] = field(default_factory=dict)
    """By VM size: the code with which the operation fails after it was taken up."""
    stuck: set[str] = field(default_factory=set)
    """VM sizes of which no pool is ever made."""
    usages: list[Object] = field(default_factory=list)
    seconds: float = 0.05
    """How long Azure takes to make a pool, or to remove it."""
    one_at_a_time: bool = False
    """Whether a second operation is refused while one is under way, as AKS does."""
    on_asked: PoolHook | None = None
    on_ready: PoolHook | None = None
    on_gone: PoolHook | None = None
    refused_s: float = 0.0
    """When it last told that there is no machine, by `time.monotonic`."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_busy(self) -> bool:
        """Whether a pool is being made or removed."""
        states = (pool["properties"]["provisioningState"] for pool in self.pools.values())
        return any(state in {"Creating", "Deleting"} for state in states)

    async def quiet(self) -> None:
        """Return when no operation is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def fault(self, route: str, *faults: Fault) -> None:
        """Let the next calls of a route (PUT, GET, DELETE, LIST, USAGES) be answered so."""
        self.faults.setdefault(route, []).extend(faults)

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def running_arm(arm: Arm) -> AsyncIterator[Arm]:
    """The server, on a port of loopback, until the context ends."""
    app = web.Application()
    pool = f"{_CLUSTER}/agentPools/{{name}}"
    app.router.add_put(pool, _answering(arm, "PUT", _put))
    app.router.add_get(pool, _answering(arm, "GET", _get))
    app.router.add_delete(pool, _answering(arm, "DELETE", _delete))
    app.router.add_get(f"{_CLUSTER}/agentPools", _answering(arm, "LIST", _list))
    usages = f"{_COMPUTE}/locations/{LOCATION}/usages"
    app.router.add_get(usages, _answering(arm, "USAGES", _usages))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    arm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield arm
    finally:
        await arm.quiet()
        await runner.cleanup()


@contextlib.contextmanager
def arm_in_a_thread() -> Iterator[Arm]:
    """The ARM server, beside tests that wait."""
    arm, loop, is_over = Arm(), asyncio.new_event_loop(), asyncio.Event()
    is_there = threading.Event()

    async def serve() -> None:
        async with running_arm(arm):
            is_there.set()
            await is_over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="arm")
    thread.start()
    try:
        assert is_there.wait(30)
        yield arm
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
        loop.close()


Route = Callable[[Arm, web.Request], Awaitable[web.Response]]


def _answering(arm: Arm, route: str, answer: Route) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.StreamResponse:
        arm.calls[route] += 1
        waiting = arm.faults.get(route)
        if not waiting:
            return await answer(arm, request)
        fault = waiting.pop(0)
        if not fault.lost:
            arm.refused_s = time.monotonic()
            return _refusal(fault)
        await answer(arm, request)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return handle


def _refusal(fault: Fault) -> web.Response:
    if fault.text is not None:
        return web.Response(text=fault.text, status=fault.status, content_type="application/json")
    body = {"error": {"code": fault.code, "message": fault.message}}
    return web.json_response(body, status=fault.status, headers=fault.headers)


async def _put(arm: Arm, request: web.Request) -> web.Response:
    name, body = request.match_info["name"], await request.json()
    if arm.one_at_a_time and arm.is_busy:
        busy = "another operation is in progress"
        return _refusal(Fault(409, "OperationNotAllowed", busy))
    if not _is_gpu_profile(body["properties"].get("gpuProfile")):
        return _refusal(Fault(400, "InvalidParameter", "gpuProfile has a word that is unknown"))
    arm.puts.append({"name": name, **body})
    if (there := arm.pools.get(name)) and _is_as_asked(there):
        return web.json_response(there)
    pool = {
        "id": f"{_CLUSTER}/agentPools/{name}",
        "name": name,
        "type": "Microsoft.ContainerService/managedClusters/agentPools",
        "properties": body["properties"] | {"provisioningState": "Creating", "eTag": "1"},
    }
    arm.pools[name] = pool
    if arm.on_asked:
        await arm.on_asked(pool)
    arm.start(_make(arm, pool))
    return web.json_response(pool, status=201)


def _is_as_asked(pool: Object) -> bool:
    """Whether it is made already, or being made: to ask for it again makes no second machine."""
    return pool["properties"]["provisioningState"] in {"Creating", "Succeeded"}


def counts_gpus(pool: Object) -> bool:
    """Whether a device plugin is on the pool's nodes: AKS brings one only when asked."""
    nvidia = (pool["properties"].get("gpuProfile") or {}).get("nvidia") or {}
    return bool(nvidia.get("managementMode") == "Managed")


def _is_gpu_profile(given: Object | None) -> bool:
    """Whether every word is one that Azure's own client knows."""
    if given is None:
        return True
    nvidia = given.get("nvidia", {})
    return (
        given.keys() <= {"driver", "nvidia"}
        and given.get("driver", "Install") in {each.value for each in GPUDriver}
        and nvidia.keys() <= {"managementMode"}
        and nvidia.get("managementMode", "Managed") in {each.value for each in ManagementMode}
    )


async def _make(arm: Arm, pool: Object) -> None:
    await asyncio.sleep(arm.seconds)
    properties = pool["properties"]
    if properties["provisioningState"] != "Creating" or properties["vmSize"] in arm.stuck:
        return
    if code := arm.fails_with.get(properties["vmSize"]):
        properties["provisioningState"] = "Failed"
        error = {"code": code, "message": f"{properties['vmSize']} cannot be had"}
        properties["status"] = {"provisioningError": error}
        return
    properties["provisioningState"] = "Succeeded"
    if arm.on_ready:
        await arm.on_ready(pool)


async def _get(arm: Arm, request: web.Request) -> web.Response:
    pool = arm.pools.get(request.match_info["name"])
    if pool is None:
        return _refusal(Fault(404, "NotFound", "no such agent pool"))
    _note_refusal(arm, pool)
    return web.json_response(pool)


async def _list(arm: Arm, request: web.Request) -> web.Response:
    for pool in arm.pools.values():
        _note_refusal(arm, pool)
    return web.json_response({"value": [*arm.pools.values()]})


def _note_refusal(arm: Arm, pool: Object) -> None:
    if pool["properties"]["provisioningState"] == "Failed":
        arm.refused_s = time.monotonic()


async def _delete(arm: Arm, request: web.Request) -> web.Response:
    pool = arm.pools.get(request.match_info["name"])
    if pool is None:
        return web.Response(status=204)
    if arm.one_at_a_time and arm.is_busy:
        busy = "another operation is in progress"
        return _refusal(Fault(409, "OperationNotAllowed", busy))
    pool["properties"]["provisioningState"] = "Deleting"
    arm.start(_remove(arm, pool))
    return web.Response(status=202)


async def _remove(arm: Arm, pool: Object) -> None:
    await asyncio.sleep(arm.seconds)
    if arm.on_gone:
        await arm.on_gone(pool)
    arm.pools.pop(pool["name"], None)


async def _usages(arm: Arm, request: web.Request) -> web.Response:
    return web.json_response({"value": arm.usages})
