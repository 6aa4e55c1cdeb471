"""An event of a Workspace as its platform keeps it: an Event of a cluster, or a line of a file."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from tasks.contract.redaction import harmless


class RecordedEvent(BaseModel):
    """What happened, why, and how often; at: the last time, UTC as Kubernetes writes it."""

    model_config = ConfigDict(frozen=True)

    at: str
    reason: str
    message: Annotated[str, AfterValidator(harmless)]
    is_warning: bool = False
    count: int = 1
