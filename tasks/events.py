"""What happens to a Workspace becomes events of Prefect's: seen in its feed, and acted on there.

Sent beside the run, by the queue of Prefect's own events; none can hold it up, or have it fail.
"""

import logging
from typing import Any

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from tasks.contract.happenings import event_body, happenings
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace

logger = logging.getLogger(__name__)


def tell_events(workspace: Workspace, before: WorkspaceStatus, after: WorkspaceStatus) -> None:
    """Have an event sent for each thing that has happened between two statuses."""
    for told in happenings(before, after):
        tell(event_body(workspace.metadata, told, after))


def tell(body: dict[str, Any]) -> None:
    """Have an event sent, where there is a server that hears it; what hinders it is logged."""
    if not PREFECT_API_URL.value():  # Prefect would start a server, to tell nobody
        return
    try:
        emit_event(**body)
    except Exception:  # whatever it is, the run goes on
        logger.warning("event not sent event=%s", body["event"], exc_info=True)
