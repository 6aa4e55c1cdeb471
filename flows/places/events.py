"""What happened to a Workspace of a cluster: its Events."""

from collections.abc import Mapping
from datetime import datetime

from flows.places.base import age
from tasks.contract.workspace import Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object


async def events_of(api: KubeApi, workspace: Workspace) -> list[Mapping[str, str]]:
    """The Workspace's Events, oldest first: heading to value."""
    meta = workspace.metadata
    found = await api.find("Event", meta.namespace, fields={"involvedObject.uid": meta.uid})
    found.sort(key=_last_seen)
    return [
        {
            "TYPE": event.get("type") or "",
            "REASON": event.get("reason") or "",
            "AGE": age(datetime.fromisoformat(_last_seen(event))),
            "MESSAGE": event.get("message") or "",
        }
        for event in found
    ]


def _last_seen(event: Object) -> str:
    times = (event.get("lastTimestamp"), event.get("eventTime"))
    return str(next((t for t in times if t), event["metadata"]["creationTimestamp"]))
