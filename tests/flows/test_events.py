"""What happens to a Workspace is in Prefect's feed, and an automation of ours carries it on."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.automations import ensure_automations
from flows.prefect_api import PrefectApi
from tasks.contract.errors import InvalidSettings
from tasks.contract.happenings import event_body, happenings, leak_body
from tasks.contract.status import State, WorkspaceStatus, fresh_status
from tasks.contract.workspace import ObjectMeta
from tasks.events import tell_events
from tests.builders import tuning_workspace
from tests.dataset.web import Handler, running_web
from tests.flows.prefect import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
WAIT_S = 90


@pytest.fixture
def server(prefect_home: str) -> Iterator[str]:
    """The tests' Prefect server, to which this process's client speaks."""
    told = {
        PREFECT_API_URL: prefect_home,
        PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(told):
        yield prefect_home


def wait_until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)
    return found


def feed(server: str, resource: str) -> list[str]:
    """The names of a resource's events."""
    body = {"filter": {"resource": {"id": [resource]}}}
    found = ask("POST", f"{server}/events/filter", json=body).json()["events"]
    return [event["event"] for event in found]


def failed(status: WorkspaceStatus) -> WorkspaceStatus:
    after = status.model_copy(deep=True)
    after.end_without(State.FAILED, reason="OutOfMemory", message="the GPU is full; take a larger")
    return after


def test_a_run_tells_what_happens_while_it_goes_on(server: str) -> None:
    workspace, before = tuning_workspace("telling"), fresh_status(1)

    @flow
    def turn() -> None:
        tell_events(workspace, before, failed(before))
        tell_events(workspace, before, before)

    turn()
    resource = "kaitoflow.workspace.default.telling"
    assert wait_until(lambda: feed(server, resource), "the event") == ["kaitoflow.workspace.failed"]


class Hook:
    """What a webhook was told."""

    def __init__(self) -> None:
        self.told = ""

    def hear(self, handler: Handler) -> None:
        self.told += handler.body().decode()
        handler.answer(200, b"{}")


async def test_a_failed_run_and_a_leak_reach_the_webhook_that_the_settings_name(
    server: str,
) -> None:
    said = Hook()
    with running_web() as web:
        web.serve("/hook", said.hear)
        hook = CustomWebhookNotificationBlock(
            name="hook", url=f"{web.address}/hook", json_data={"text": "{{subject}} | {{body}}"}
        )
        await hook.save("ours", overwrite=True)
        for _ in range(2):
            await ensure_automations("custom-webhook/ours")
        made = ask("POST", f"{server}/automations/filter", json={}).json()
        names = [each["name"] for each in made if each["name"].startswith("kaitoflow ")]
        assert len(names) == len(set(names)) == 7
        before = fresh_status(1)
        after = failed(before)
        [event] = happenings(before, after)
        meta = ObjectMeta(name="hooked", namespace="team")
        leak = leak_body("claim-1", reason="claim-without-workspace", message="still drains")

        async def tell() -> bool:
            # Until the server's triggers have read the new automations.
            async with PrefectApi({**os.environ, "PREFECT_API_URL": server}) as prefect:
                await prefect.tell([event_body(meta, event, after), leak])
            return "leaked: claim-1" in said.told

        deadline = time.monotonic() + WAIT_S
        while not await tell():
            assert time.monotonic() < deadline, said.told
            await asyncio.sleep(2)
        wait_until(lambda: "team/hooked failed" in said.told, "the other message")
        assert "team/hooked failed: OutOfMemory | the GPU is full; take a larger" in said.told
        assert "Read on: kaitoflow explain OutOfMemory" in said.told
        assert "leaked: claim-1 | still drains" in said.told


async def test_a_block_that_is_not_there_is_told_with_where_to_make_it(server: str) -> None:
    with pytest.raises(InvalidSettings, match="under Blocks"):
        await ensure_automations("slack-webhook/nobody")
