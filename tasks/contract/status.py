"""A Workspace's status: conditions, state, progress, results. Pure: nothing here reads or writes.

Condition types and reasons are KAITO's where KAITO has one; `Accepted` is ours (the verdict of all
cheap checks). Times are UTC, in Kubernetes' format.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    computed_field,
    field_validator,
)
from pydantic.alias_generators import to_camel

from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Making
from tasks.contract.artifacts import Endpoint, PublishedImage, Tuned
from tasks.contract.data_marks import DataMarks
from tasks.contract.errors import RunInProgress
from tasks.contract.held_cost import Cost
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.redaction import harmless, one_line
from tasks.contract.repairs import Repairs
from tasks.contract.units import duration, utc_text

# Why a run or a server is there no more; for any other reason it failed, or will come back.
ENDED_ON_PURPOSE_REASONS = ("StopRequested", "Stopped", "ServerReplaced", "Deleting")
# Why a server has no pod for a while: its successor is tuned on its GPU.
SERVER_PAUSED = "ServerPaused"
# Why a condition says nothing of the world: no run has come to it, is to come to it, or came to it.
NOT_YET, NOT_ASKED, NOT_REACHED = "NotYet", "NotAsked", "NotReached"
_SAYS_NOTHING_REASONS = (NOT_YET, NOT_ASKED, NOT_REACHED)
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


_NOT_YET_MESSAGES = {
    ConditionType.ACCEPTED: "its checks have not been made yet",
    ConditionType.NODE_CLAIM_READY: "no node was claimed yet",
    ConditionType.NODES_READY: "no node was looked for yet",
    ConditionType.RESOURCE_READY: "no node was looked for yet",
    ConditionType.JOB_STARTED: "tuning has not begun yet",
    ConditionType.INFERENCE_READY: "no server was started yet",
    ConditionType.WORKSPACE_SUCCEEDED: "the run has not ended yet",
}

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
        was_meant = self.reason in ENDED_ON_PURPOSE_REASONS
        return self.status == "False" and self.type in ends_runs and not was_meant

    @property
    def says_nothing(self) -> bool:
        """Whether it only says that no run has come to what it is about."""
        return self.reason in _SAYS_NOTHING_REASONS


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
    """One line of what a run has done so far; finished: empty in statuses of earlier versions."""

    name: str
    seconds: float
    detail: Shown
    finished: str = ""


class FinishedGeneration(_Part):
    """One generation that ended well, and the image that it made."""

    generation: int
    digest: str
    finished: str


class AdapterRun(_Part):
    """A run that makes or moves an adapter of a generation whose own run has ended.

    As long as it is told of, it is the only one that changes the Workspace.
    """

    flow: str
    flow_run_id: str
    since: str


class MadeObject(_Part):
    """An object of the cluster that is to stay for as long as the Workspace is served.

    digest: of the fields that are ours; it is another one once somebody else has changed one.
    """

    kind: str
    name: str
    digest: str


class WorkspaceStatus(_Part):
    """What the world looks like, as far as the last run saw it.

    attempt: how often a run of this generation was started anew after it was lost.
    server_made_in: the generation that made the server's pods, which later ones left as they are.
    target_node_count: nodes that the Workspace needs; None until that is known.
    history: the generations that ended well, oldest first; the last ten.
    adapters: those that were tuned, also from new data of the same generation.
    adapter_run: that is at work on one of these; None = none is.
    cost: of the machines that were made for it, of all generations.
    acted_on: annotations that the last run acted on, as `name=value`; None = not known.
    objects: of which the server is made; empty = not known, as in statuses of earlier versions.
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
    server_made_in: int | None = None
    held_out: HeldOut | None = None
    flow_run_id: str = ""
    tuned: Tuned | None = None
    history: list[FinishedGeneration] = []
    adapters: AdapterHistory = AdapterHistory()
    adapter_run: AdapterRun | None = None
    cost: Cost = Cost()
    objects: list[MadeObject] = []
    repairs: Repairs = Repairs()
    acted_on: list[str] | None = None

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
        if found is None or found.says_nothing or found.reason in ENDED_ON_PURPOSE_REASONS:
            return None
        return found.observed_generation

    @property
    def serves_older(self) -> bool:
        """Whether what serves is an older generation than the one that is run, or was run last."""
        return self.served_generation not in (None, self.observed_generation)

    @property
    def serves_beside(self) -> bool:
        """Whether what serves is something else than what the run at work makes."""
        is_at_work = self.adapter_run is not None and self.served_generation is not None
        return is_at_work or self.serves_older

    @property
    def is_server_paused(self) -> bool:
        """Whether what serves makes room for its successor's tuning now."""
        found = self.condition(ConditionType.INFERENCE_READY)
        return found is not None and found.reason == SERVER_PAUSED

    @property
    def server_generation(self) -> int | None:
        """The generation that the pods of what serves are labelled with; None when none is there.

        It may be older than the one that is served: an edit without effect on the pods keeps them.
        """
        served = self.served_generation
        return None if served is None else self.server_made_in or served

    @property
    def keeps_nodes(self) -> bool:
        """Whether a run, or a server of any generation, needs the nodes that the Workspace has."""
        return self.state.keeps_nodes or self.served_generation is not None

    # These two are written as fields, since a column of `kubectl get` can only pick one.
    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """Why the Workspace is not there yet: the first condition that says why it is not True."""
        waiting = (c for c in self.conditions if c.status != "True" and not c.says_nothing)
        first = next(waiting, None)
        return first.reason if first else ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def progress_text(self) -> str:
        """What is under way, in one line; empty when nothing is."""
        return str(self.progress)

    def expect_at_rest(self, asked: str, *, generation: int, by: str) -> None:
        """Return where an adapter may be made or moved: the generation's run has ended well.

        Args: asked: what was to be done, in words. by: the id of the run that is to do it.
        Raises: RunInProgress.
        """
        found, fix = "", "try again once it has ended"
        if self.adapter_run and self.adapter_run.flow_run_id != by:
            found = f"{self.adapter_run.flow} is at work on it since {self.adapter_run.since}"
        elif self.observed_generation != generation or not self.state.is_settled:
            found = f"the run of its generation {generation} has not ended"
        elif self.state.ended_badly:
            found = f"it is {self.state}: {self.reason}"
            fix = "see `kubectl describe workspace`, and have its own run end well first"
        if found:
            raise RunInProgress(asked, found, fix)

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

    def end_without(
        self,
        state: State,
        *,
        reason: str,
        message: str,
        is_refusal: bool = False,
        now: datetime | None = None,
    ) -> None:
        """Note that a run has ended, and why without what it was for."""
        self.state, self.progress = state, Progress()
        kinds = [ConditionType.WORKSPACE_SUCCEEDED]
        if is_refusal:
            kinds.insert(0, ConditionType.ACCEPTED)
        for kind in kinds:
            self.set_condition(kind, status="False", reason=reason, message=message, now=now)
        self.leave_undone(NOT_REACHED, "the run ended before it came to this", now=now)

    def leave_undone(self, reason: str, message: str, *, now: datetime | None = None) -> None:
        """Let the conditions that no run has come to be False; of the checks nothing is known."""
        for kind in set(ConditionType) - {ConditionType.ACCEPTED}:
            found = self.condition(kind)
            if found and found.reason == NOT_YET:
                self.set_condition(kind, status="False", reason=reason, message=message, now=now)

    def nodes_are_ready(self, message: str) -> None:
        """Note that what serves, or is about to, has its nodes.

        Claims that some run waited for are nodes by then, also where that run was ended by an edit.
        """
        reasons = {
            ConditionType.NODES_READY: "NodesReady",
            ConditionType.RESOURCE_READY: "workspaceResourceStatusSuccess",
        }
        for kind, reason in reasons.items():
            self._is_true_of_what_serves(kind, reason, message)
        if self.waits_for_claims:
            self.claims_are_ready()

    @property
    def waits_for_claims(self) -> bool:
        """Whether it says that claims have yet to become nodes."""
        found = self.condition(ConditionType.NODE_CLAIM_READY)
        return bool(found and found.status == "False" and found.reason not in _SAYS_NOTHING_REASONS)

    def claims_are_ready(self) -> None:
        """Note that each claim has become a node."""
        message = "every claim has become a node"
        self._is_true_of_what_serves(ConditionType.NODE_CLAIM_READY, "NodeClaimsReady", message)

    def _is_true_of_what_serves(self, kind: ConditionType, reason: str, message: str) -> None:
        generation = self.served_generation
        self.set_condition(
            kind, status="True", reason=reason, message=message, generation=generation
        )

    def server_ended(self, *, reason: str, message: str) -> None:
        """Note that what served, of whichever generation, is there no more; nothing if none did."""
        if self.served_generation is not None:
            self.set_condition(
                ConditionType.INFERENCE_READY, status="False", reason=reason, message=message
            )

    def remember_tuned(
        self,
        training: str,
        image: PublishedImage | None,
        data: DataMarks | None = None,
        making: Making | None = None,
    ) -> None:
        """Note what this generation has tuned, and from what, so that it is not tuned again.

        Args: training: the digest of all that it depended on. data: that it was tuned from.
        making: how it was made; None = not noted.
        """
        self.adapters.adopt(self.tuned)
        self.tuned = Tuned(
            training=training,
            generation=self.observed_generation,
            image=image,
            held_out=self.held_out,
        )
        if image:
            self.adapters.add_first(self.tuned, data=data, making=making)

    def find_adapters_again(
        self, found: Sequence[AdapterRecord], *, served: Collection[str], now: datetime
    ) -> None:
        """Tell of adapters whose images were found, where nothing is told of any, nor tuned.

        Args: as of `AdapterHistory.find_again`.
        """
        if self.tuned is None and not self.adapters.records:
            self.tuned = self.adapters.find_again(found, served=served)
            numbers = ", ".join(str(each.number) for each in self.adapters.records)
            self.adapters.tell(f"told of from the registry again: adapters {numbers}", now)

    def keep_tuned(self, tuned: Tuned) -> None:
        """Have as this generation's what an earlier one has tuned."""
        self.tuned = tuned.model_copy(update={"kept_for": self.observed_generation})
        self.image, self.held_out = tuned.image, tuned.held_out
        if tuned.image:
            self.remember_image(tuned.image.digest)
            self.adapters.bring_back(tuned.image)

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
    """The status in a Workspace's manifest; an empty one, when none was written that can be read.

    Anybody with the right may write anything into it; then its runs have told nothing.
    """
    try:
        return WorkspaceStatus.model_validate((workspace or {}).get("status") or {})
    except ValidationError:
        return WorkspaceStatus()


def first_conditions(
    generation: int, *, is_tuned: bool = True, is_served: bool = True, now: datetime | None = None
) -> list[Condition]:
    """A condition of each type, of which nothing is known yet, or which is not asked for."""
    status = WorkspaceStatus(observed_generation=generation)
    for kind, message in _NOT_YET_MESSAGES.items():
        status.set_condition(kind, status="Unknown", reason=NOT_YET, message=message, now=now)
    not_asked = {}
    if not is_tuned:
        not_asked[ConditionType.JOB_STARTED] = "the Workspace asks for no tuning"
    if not is_served:
        not_asked[ConditionType.INFERENCE_READY] = "the Workspace asks for no server"
    for kind, message in not_asked.items():
        status.set_condition(kind, status="False", reason=NOT_ASKED, message=message, now=now)
    return status.conditions


def fresh_status(
    generation: int,
    previous: WorkspaceStatus | None = None,
    *,
    is_tuned: bool = True,
    is_served: bool = True,
) -> WorkspaceStatus:
    """The status a run starts with: results of earlier runs and cost stay, attempts count anew.

    What an older generation serves stays too, with its nodes, until this one takes its place.
    """
    conditions = first_conditions(generation, is_tuned=is_tuned, is_served=is_served)
    status = WorkspaceStatus(observed_generation=generation, conditions=conditions)
    if previous:
        status.image, status.endpoint = previous.image, previous.endpoint
        status.tuned = previous.tuned
        status.history, status.cost = [*previous.history], previous.cost
        status.adapters = previous.adapters.model_copy(deep=True)
        status.objects = [*previous.objects]
        if previous.observed_generation == generation:
            status.attempt, status.repairs = previous.attempt, previous.repairs
        if previous.served_generation is not None:
            kept = {c.type: c for c in previous.conditions if c.type in _OF_WHAT_SERVES}
            status.conditions = [kept.get(c.type, c) for c in conditions]
            status.worker_nodes = [*previous.worker_nodes]
            status.server_made_in = previous.server_made_in
    return status
