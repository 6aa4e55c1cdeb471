"""A Workspace's status: conditions, state, progress, results. Pure: nothing here reads or writes.

Condition types and reasons are KAITO's where KAITO has one; `Accepted` is ours (the verdict of all
cheap checks). Times are UTC, in Kubernetes' format.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from tasks.artifacts import Endpoint, PublishedImage


class ConditionType(StrEnum):
    """What a condition is about; in the order in which a healthy run makes them True."""

    ACCEPTED = "Accepted"
    NODES_READY = "NodesReady"
    RESOURCE_READY = "ResourceReady"
    JOB_STARTED = "JobStarted"
    INFERENCE_READY = "InferenceReady"
    WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Condition(_Part):
    """metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


class Progress(_Part):
    """Where the step that runs now stands."""

    step_name: str = ""
    phase: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None
    memory_gib: float | None = None

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.step / self.steps if self.steps else 0.0


class FinishedStep(_Part):
    """One line of what a run has done so far."""

    name: str
    seconds: float
    detail: str


class WorkspaceStatus(_Part):
    """What the world looks like, as far as the last run saw it."""

    state: str = "Pending"
    observed_generation: int = 0
    conditions: list[Condition] = []
    progress: Progress = Progress()
    steps: list[FinishedStep] = []
    worker_nodes: list[str] = []
    image: PublishedImage | None = None
    endpoint: Endpoint | None = None
    held_out: dict[str, Any] = {}
    flow_run_id: str = ""

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of a type; None while nothing is known."""
        return next((c for c in self.conditions if c.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        """Whether the condition of a type is there and True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def reason(self) -> str:
        """Why the Workspace is not there yet: the first condition that is not True."""
        waiting = next((c for c in self.conditions if c.status != "True"), None)
        return waiting.reason if waiting else ""

    def set_condition(
        self,
        kind: ConditionType,
        *,
        status: Literal["True", "False", "Unknown"],
        reason: str,
        message: str = "",
        now: datetime | None = None,
    ) -> None:
        """Set a condition; its transition time moves only when its status does."""
        previous = self.condition(kind)
        changed = previous is None or previous.status != status
        moment = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = Condition(
            type=kind.value,
            status=status,
            reason=reason,
            message=message,
            observed_generation=self.observed_generation,
            last_transition_time=moment
            if changed or not previous
            else previous.last_transition_time,
        )
        if previous:
            self.conditions[self.conditions.index(previous)] = condition
        else:
            self.conditions.append(condition)


def fresh_status(generation: int, previous: WorkspaceStatus | None = None) -> WorkspaceStatus:
    """The status a run starts with; an earlier run's image and endpoint stay until replaced."""
    status = WorkspaceStatus(observed_generation=generation)
    if previous:
        status.image, status.endpoint = previous.image, previous.endpoint
    return status
