"""Prefect's automations that tell a person what has happened, by a notification block of Prefect's.

They are data (`automations.yaml`). Ensured where runs are deployed; whether one is on is a person's
to say in Prefect's UI, and stays so.
"""

from importlib.resources import files
from typing import Any
from uuid import UUID

import yaml
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.events import AutomationCore, EventTrigger, Posture, SendNotification
from prefect.exceptions import ObjectNotFound

from tasks.contract.errors import InvalidSettings

_BODY = "{{ event.payload.message }}"


async def ensure_automations(notify: str) -> None:
    """Have the automations, by the block that TYPE/NAME names; done again, it changes nothing.

    Raises: InvalidSettings: there is no such block.
    """
    async with get_client() as client:
        block = await _block_id(client, notify)
        for each in _written():
            wanted = automation_of(each, block)
            there = await client.read_automations_by_name(wanted.name)
            if not there:
                await client.create_automation(wanted)
            for known in there:
                kept = wanted.model_copy(update={"enabled": known.enabled})
                await client.update_automation(known.id, kept)


def automation_of(written: dict[str, Any], block: UUID) -> AutomationCore:
    """An automation as Prefect has it: each event of its name is told once."""
    trigger = EventTrigger(
        posture=Posture.Reactive,
        expect={written["event"]},
        for_each={"prefect.resource.id"},
        threshold=1,
    )
    body = "\n".join([_BODY, *([f"Read on: {written['read_on']}"] if "read_on" in written else [])])
    action = SendNotification(block_document_id=block, subject=written["subject"], body=body)
    return AutomationCore(
        name=written["name"],
        description=written["description"],
        trigger=trigger,
        actions=[action],
    )


def _written() -> list[dict[str, Any]]:
    text = files(__package__).joinpath("automations.yaml").read_text(encoding="utf-8")
    written: list[dict[str, Any]] = yaml.safe_load(text)
    return written


async def _block_id(client: PrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound:
        raise InvalidSettings(
            f"KAITOFLOW_NOTIFY is {notify!r}",
            "Prefect has no block of that type and name",
            "make it in Prefect's UI, under Blocks (Slack Webhook, Custom Webhook, Sendgrid Email "
            "and others), and write its TYPE/NAME, as slack-webhook/team",
        ) from None
