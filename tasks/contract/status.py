"""A Workspace's status: conditions, state, progress, results. Pure: nothing here reads or writes.

Condition types and reasons are KAITO's where KAITO has one; `Accepted` is ours (the verdict of all
cheap checks). Times are UTC, in Kubernetes' format.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, computed_field, field_validator
from pydantic.alias_generators import to_camel

from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.held_cost import Cost
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.redaction import harmless, one_line
from tasks.contract.units import duration, utc_text

# Why a run or a server is there no more; for any other reason it failed, or will come back.
_ENDED_ON_PURPOSE_REASONS = ("StopRequested", "Stopped", "ServerReplaced")
_HISTORY_MAX = 10
_MESSAGE_MAX_CHARS = 32768  # metav1.Condition's; a status with a longer one is refused whole


class State(StrEnum):
    """How a Workspace stands, in one word; KAITO's words, and Stopped."""

    PENDING = "Pending"
    RUNNING = "Running"
    READY = "Ready"
    NOT_READY = "NotReady"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @property
    def is_settled(self) -> bool:
        """Whether a Workspace needs no run, as long as it is not changed."""
        return self not in (State.PENDING, State.RUNNING)

    @property
    def ended_well(self) -> bool:
        """Whether the last run did what was asked."""
        return self in (State.READY, State.SUCCEEDED)

    @property
    def ended_badly(self) -> bool:
        """Whether running the same again may do what the last run did not."""
        return self in (State.FAILED, State.STOPPED)

    @property
    def is_of_server(self) -> bool:
        """Whether it is a server that decides between this state and another."""
        return self in (State.READY, State.NOT_READY)

    @property
    def keeps_nodes(self) -> bool:
        """Whether a run, or what it left, needs nodes; see `WorkspaceStatus.keeps_nodes`."""
        return not self.is_settled or self.is_of_server


class ConditionType(StrEnum):
    """What a condition is about; in the order in which a healthy run makes them True."""

    ACCEPTED = "Accepted"
    NODE_CLAIM_READY = "NodeClaimReady"
    NODES_READY = "NodesReady"
    RESOURCE_READY = "ResourceReady"
    JOB_STARTED = "JobStarted"
    INFERENCE_READY = "InferenceReady"
    WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"


# What stays true while a newer generation is refused, or tuned.
_OF_WHAT_SERVES = (
    ConditionType.NODE_CLAIM_READY,
    ConditionType.NODES_READY,
    ConditionType.RESOURCE_READY,
    ConditionType.INFERENCE_READY,
)


# Holds words of servers and registries, and is printed on terminals.
Shown = Annotated[str, AfterValidator(harmless)]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Condition(_Part):
    """One condition, with the fields of Kubernetes' metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: Shown = ""
    observed_generation: int = 0
    last_transition_time: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether it says that a run was refused or has failed; one that was stopped has not."""
        ends_runs = (ConditionType.ACCEPTED, ConditionType.WORKSPACE_SUCCEEDED)
        was_meant = self.reason in _ENDED_ON_PURPOSE_REASONS
        return self.status == "False" and self.type in ends_runs and not was_meant


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

    def __str__(self) -> str:
        """One line, such as `tune train 3/10 loss 1.234 ETA 4 min`; empty when nothing is done."""
        if not self.step_name:
            return ""
        parts = [self.step_name, self.phase, f"{self.step}/{self.steps}" if self.steps else ""]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_s:
            parts.append(f"{self.tokens_per_s:.0f} tokens/s")
        if self.eta_s is not None:
            parts.append(f"ETA {duration(self.eta_s)}")
        return one_line(" ".join(part for part in parts if part))


class FinishedStep(_Part):
    """One line of what a run has done so far."""

    name: str
    seconds: float
    detail: Shown


class FinishedGeneration(_Part):
    """One generation that ended well, and the image that it made."""

    generation: int
    digest: str
    finished: str


class WorkspaceStatus(_Part):
    """What the world looks like, as far as the last run saw it.

    attempt: how often a run of this generation was started anew after it was lost.
    target_node_count: nodes that the Workspace needs; None until that is known.
    history: the generations that ended well, oldest first; the last ten.
    cost: of the machines that were made for it, of all generations.
    """

    state: State = State.PENDING
    observed_generation: int = 0
    attempt: int = 0
    conditions: list[Condition] = []
    progress: Progress = Progress()
    steps: list[FinishedStep] = []
    worker_nodes: list[str] = []
    target_node_count: int | None = None
    image: PublishedImage | None = None
    endpoint: Endpoint | None = None
    held_out: HeldOut | None = None
    flow_run_id: str = ""
    history: list[FinishedGeneration] = []
    cost: Cost = Cost()

    @field_validator("held_out", mode="before")
    @classmethod
    def _none_when_empty(cls, written: Any) -> Any:
        """Versions before wrote {} where no row was held out."""
        return written or None

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of a type; None while nothing is known."""
        return next((c for c in self.conditions if c.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        """Whether the condition of a type is there and True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def served_generation(self) -> int | None:
        """The generation whose server answered and was not ended since; None when there is none.

        It may be an older one than what was run last: an edit that was refused, or has failed.
        """
        found = self.condition(ConditionType.INFERENCE_READY)
        if found is None or found.reason in _ENDED_ON_PURPOSE_REASONS:
            return None
        return found.observed_generation

    @property
    def keeps_nodes(self) -> bool:
        """Whether a run, or a server of any generation, needs the nodes that the Workspace has."""
        return self.state.keeps_nodes or self.served_generation is not None

    # These two are written as fields, since a column of `kubectl get` can only pick one.
    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """Why the Workspace is not there yet: the first condition that is not True."""
        waiting = next((c for c in self.conditions if c.status != "True"), None)
        return waiting.reason if waiting else ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def progress_text(self) -> str:
        """What is under way, in one line; empty when nothing is."""
        return str(self.progress)

    def set_condition(
        self,
        kind: ConditionType,
        *,
        status: Literal["True", "False", "Unknown"],
        reason: str,
        message: str = "",
        generation: int | None = None,
        now: datetime | None = None,
    ) -> None:
        """Set a condition; its transition time moves only when its status does.

        Args: generation: that it is about, when it is not the one that was run last.
        """
        previous = self.condition(kind)
        changed = previous is None or previous.status != status
        condition = Condition(
            type=kind.value,
            status=status,
            reason=reason,
            message=message[:_MESSAGE_MAX_CHARS],
            observed_generation=self.observed_generation if generation is None else generation,
            last_transition_time=_moment(now)
            if changed or not previous
            else previous.last_transition_time,
        )
        if previous:
            self.conditions[self.conditions.index(previous)] = condition
        else:
            self.conditions.append(condition)

    def server_ended(self, *, reason: str, message: str) -> None:
        """Note that what served, of whichever generation, is there no more; nothing if none did."""
        if self.served_generation is not None:
            self.set_condition(
                ConditionType.INFERENCE_READY, status="False", reason=reason, message=message
            )

    def remember_image(self, digest: str, *, now: datetime | None = None) -> None:
        """Add this generation and the image that it made to the history; twice is once."""
        earlier = [h for h in self.history if h.generation != self.observed_generation]
        finished = FinishedGeneration(
            generation=self.observed_generation, digest=digest, finished=_moment(now)
        )
        self.history = [*earlier, finished][-_HISTORY_MAX:]


def _moment(now: datetime | None) -> str:
    return utc_text(now or datetime.now(UTC))


def status_of(workspace: Mapping[str, Any] | None) -> WorkspaceStatus:
    """The status in a Workspace's manifest; an empty one, when none was written."""
    return WorkspaceStatus.model_validate((workspace or {}).get("status") or {})


def fresh_status(generation: int, previous: WorkspaceStatus | None = None) -> WorkspaceStatus:
    """The status a run starts with: image, endpoint, history and cost stay, attempts count anew.

    What an older generation serves stays too, with its nodes, until this one takes its place.
    """
    status = WorkspaceStatus(observed_generation=generation)
    if previous:
        status.image, status.endpoint = previous.image, previous.endpoint
        status.history, status.cost = [*previous.history], previous.cost
        if previous.observed_generation == generation:
            status.attempt = previous.attempt
        if previous.served_generation is not None:
            status.conditions = [c for c in previous.conditions if c.type in _OF_WHAT_SERVES]
            status.worker_nodes = [*previous.worker_nodes]
    return status
