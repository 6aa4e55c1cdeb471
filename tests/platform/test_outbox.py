"""What a run tells of its Workspace reaches the API server: the newest, and nothing twice."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from tasks.contract.errors import KubernetesRefused
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.status import WorkspaceStatus
from tasks.platform.kube_api import KubeApi
from tasks.platform.outbox import Outbox, event_of, status_patch
from tests.builders import tuning_workspace


@dataclass
class ApiServer:
    """Takes statuses and Events over HTTP; it may refuse, and it answers while the gate is open."""

    api: KubeApi
    refuses: set[str] = field(default_factory=set)
    states: list[str] = field(default_factory=list)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = json.loads(await request.read() or "{}")
        kind = "Event" if "/events" in request.path else "Workspace"
        if kind in self.refuses:
            return web.json_response({"message": "no"}, status=403)
        if kind == "Event":
            return self.take_event(request, body)
        self.states.append(body["status"]["state"])
        await self.gate.wait()
        return web.json_response(body)

    def take_event(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if request.method == "POST":
            name = body["metadata"]["name"]
            if name in self.kept:
                return web.json_response({"message": "exists"}, status=409)
            self.kept[name] = body
        else:
            self.kept[request.path.rpartition("/")[2]] |= body
        return web.json_response(self.kept.get(request.path.rpartition("/")[2], body))

    def told(self, field: str) -> list[Any]:
        """A field of each Event, oldest first."""
        return [each[field] for each in self.kept.values()]


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    settings = client.Configuration()
    api = KubeApi(client.ApiClient(settings))
    made = ApiServer(api)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await api.close()
    await runner.cleanup()


@pytest.fixture
def outbox(server: ApiServer) -> Outbox:
    return Outbox(server.api, tuning_workspace())


async def put(outbox: Outbox, *states: str) -> None:
    for state in states:
        outbox.put_status(WorkspaceStatus(state=state))


async def until(server: ApiServer, number: int) -> None:
    async with asyncio.timeout(30):
        while len(server.states) < number:
            await asyncio.sleep(0.01)


async def test_of_statuses_that_come_while_one_is_sent_only_the_newest_follows(
    server: ApiServer, outbox: Outbox
) -> None:
    await put(outbox, "Pending")
    await until(server, 1)
    await put(outbox, "Running", "Succeeded", "Ready")
    server.gate.set()
    await outbox.flush()
    assert server.states == ["Pending", "Ready"]


async def test_every_event_is_sent(server: ApiServer, outbox: Outbox) -> None:
    server.gate.set()
    for reason in ("Accepted", "NodesReady", "JobStarted"):
        outbox.put_event(reason=reason, message="it is so")
    await outbox.flush()
    assert server.told("reason") == ["Accepted", "NodesReady", "JobStarted"]


async def test_a_warning_is_of_type_warning(server: ApiServer, outbox: Outbox) -> None:
    server.gate.set()
    outbox.put_event(reason="Accepted", message="it is so", is_warning=False)
    outbox.put_event(reason="InvalidWorkspace", message="it is not so", is_warning=True)
    await outbox.flush()
    assert server.told("type") == ["Normal", "Warning"]


async def test_an_event_that_happens_again_is_counted(server: ApiServer, outbox: Outbox) -> None:
    server.gate.set()
    for _ in range(3):
        outbox.put_event(reason="NodeLost", message="the node is gone", is_warning=True)
    outbox.put_event(reason="NodeLost", message="another one is gone", is_warning=True)
    await outbox.flush()
    assert server.told("count") == [3, 1]


async def test_a_status_is_sent_though_an_event_is_refused(
    server: ApiServer, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses.add("Event")
    server.gate.set()
    outbox.put_event(reason="Accepted", message="it is so")
    await put(outbox, "Ready")
    await outbox.flush()
    assert server.states == ["Ready"]
    assert "event not written reason=Accepted" in caplog.text


async def test_a_status_that_is_refused_is_the_runs_error(
    server: ApiServer, outbox: Outbox
) -> None:
    server.refuses.add("Workspace")
    await put(outbox, "Ready")
    with pytest.raises(KubernetesRefused, match="403"):
        await outbox.flush()


async def test_after_a_refusal_the_next_status_is_sent(server: ApiServer, outbox: Outbox) -> None:
    server.gate.set()
    server.refuses.add("Workspace")
    await put(outbox, "Running")
    with pytest.raises(KubernetesRefused):
        await outbox.flush()
    server.refuses.clear()
    await put(outbox, "Failed")
    await outbox.flush()
    assert server.states == ["Failed"]


def test_a_status_replaces_all_of_the_one_before() -> None:
    empty = status_patch("1", WorkspaceStatus())
    assert empty["metadata"] == {"uid": "1"}
    # A map that is merged keeps what was in it before, and null takes it away.
    assert (empty["status"]["heldOut"], empty["status"]["cost"]) == (None, None)
    held_out = HeldOut(rows=32, loss_before=4.0, loss_after=3.0)
    told = status_patch("1", WorkspaceStatus(held_out=held_out))["status"]["heldOut"]
    assert told["rows"] == 32


def test_one_event_told_twice_is_one_and_a_long_one_is_cut() -> None:
    workspace = tuning_workspace()
    one, again, other = (
        event_of(workspace, "Accepted", text) for text in ("m" * 2000, "m" * 2000, "other")
    )
    assert one["metadata"]["name"] == again["metadata"]["name"] != other["metadata"]["name"]
    assert len(one["message"]) == 1000
    assert one["involvedObject"]["name"] == "tuned"
