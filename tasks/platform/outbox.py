"""What a run tells of its Workspace, on its way to the API server while the run goes on.

A status is replaced as a whole, so of several that come while one is on its way only the newest has
to follow: steps that end at once cost no request of their own, and the busier the API server is,
the less it is asked.
"""

import asyncio
import contextlib
import hashlib
import logging
from datetime import UTC, datetime

from tasks.contract.errors import KaitoflowError
from tasks.contract.status import WorkspaceStatus
from tasks.contract.units import utc_text
from tasks.contract.workspace import Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

logger = logging.getLogger(__name__)

_EVENT_MESSAGE_MAX_CHARS = 1000
# Soon enough for a person who watches; and each change costs the API server, etcd and all who watch
# Workspaces some milliseconds, which add up where many runs begin at once.
_STATUS_EVERY_S = 1.0


class Outbox:
    """The status and the events of one Workspace."""

    def __init__(self, api: KubeApi, workspace: Workspace) -> None:
        """Tell `workspace`; one that is gone, or another of its name, is told nothing."""
        self._api, self._workspace = api, workspace
        self._status: WorkspaceStatus | None = None
        self._events: list[Object] = []
        self._sending: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def put_status(self, status: WorkspaceStatus) -> None:
        """Send this status, unless a newer one comes first; it is not to be changed any more.

        Raises: what kept an earlier one from being sent.
        """
        self._status = status
        self._send_on()

    def put_event(self, *, reason: str, message: str, is_warning: bool = False) -> None:
        """Send an Event, as `kubectl describe` shows it; one that cannot be sent is a warning.

        Raises: what kept an earlier status from being sent.
        """
        self._events.append(event_of(self._workspace, reason, message, is_warning=is_warning))
        self._send_on()

    async def flush(self) -> None:
        """Return when everything is sent.

        Raises: what kept the last status from being sent.
        """
        self._hurry.set()
        while self._sending:
            await asyncio.wait([self._sending])
            self._send_on()
        self._hurry.clear()

    def _send_on(self) -> None:
        if self._sending and not self._sending.done():
            return
        ended, self._sending = self._sending, None
        if self._status or self._events:
            self._sending = asyncio.create_task(self._send())
        if ended:
            ended.result()

    async def _send(self) -> None:
        while self._status or self._events:
            # Before it is sent, so that a run's first steps share one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_EVERY_S):
                    await self._hurry.wait()
            status, self._status = self._status, None
            events, self._events = self._events, []
            for event in events:
                await send_event(self._api, event)
            if status:
                await self._send_status(status)

    async def _send_status(self, status: WorkspaceStatus) -> None:
        meta = self._workspace.metadata
        patch = status_patch(meta.uid, status)
        await self._api.merge("Workspace", meta.namespace, meta.name, patch, subresource="status")


async def send_event(api: KubeApi, event: Object) -> None:
    """Have an Event told, or counted, when it was told before; what hinders it is logged."""
    namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
    try:
        if await api.create("Event", namespace, event):
            return
        told = await api.get("Event", namespace, name) or {}
        again = {"count": (told.get("count") or 0) + 1, "lastTimestamp": event["lastTimestamp"]}
        await api.merge("Event", namespace, name, again)
    except KaitoflowError as error:
        logger.warning("event not written reason=%s: %s", event["reason"], error)


def status_patch(uid: str, status: WorkspaceStatus, *, version: str = "") -> Object:
    """The merge patch that replaces the status of the Workspace with this uid, and of no other.

    Args: version: of the object that is meant: one that has changed since stays.
    """
    told = status.model_dump(mode="json", by_alias=True)
    # A merge patch adds to a map; null empties it.
    told |= {"heldOut": told["heldOut"] or None}
    told |= {"cost": told["cost"] if status.cost.machines else None}
    metadata = {"uid": uid} | ({"resourceVersion": version} if version else {})
    return {"metadata": metadata, "status": told}


def event_of(
    workspace: Workspace, reason: str, message: str, *, is_warning: bool = False
) -> Object:
    """The Event on a Workspace; the same words of one generation have one name."""
    meta = workspace.metadata
    now = utc_text(datetime.now(UTC))
    text = message[:_EVENT_MESSAGE_MAX_CHARS]
    told = f"{meta.uid}{meta.generation}{reason}{text}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            "namespace": meta.namespace,
        },
        "involvedObject": {
            "apiVersion": workspace.api_version,
            "kind": workspace.kind,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        },
        "type": "Warning" if is_warning else "Normal",
        "reason": reason,
        "message": text,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "kaitoflow"},
    }
