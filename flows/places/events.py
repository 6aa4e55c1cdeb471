"""What happened to a Workspace of a cluster: its Events."""

from datetime import datetime

from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.units import utc_text
from tasks.contract.workspace import Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object


async def events_of(api: KubeApi, workspace: Workspace) -> list[RecordedEvent]:
    """The Workspace's Events, oldest first."""
    meta = workspace.metadata
    found = await api.find("Event", meta.namespace, fields={"involvedObject.uid": meta.uid})
    told = [
        RecordedEvent(
            at=_last_seen(event),
            reason=event.get("reason") or "",
            message=event.get("message") or "",
            is_warning=event.get("type") == "Warning",
            count=event.get("count") or 1,
        )
        for event in found
    ]
    return sorted(told, key=lambda event: event.at)


def _last_seen(event: Object) -> str:
    times = (event.get("lastTimestamp"), event.get("eventTime"))
    seen = next((t for t in times if t), event["metadata"]["creationTimestamp"])
    return utc_text(datetime.fromisoformat(seen))
