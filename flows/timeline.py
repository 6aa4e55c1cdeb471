"""What happened to a Workspace as one time line: machines, nodes, pods, steps, adapters. Pure.

From its status, which tells of steps, machines and adapters, and from its events, which tell of the
rest; reasons, fixes and costs stand in the words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.contract.adapter_history import Fate, Outcome
from tasks.contract.held_cost import HeldMachine
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.units import duration, utc_moment

# Where an event belongs, by the condition that it speaks of first.
_PLACES = {
    ConditionType.ACCEPTED: "plan",
    ConditionType.NODE_CLAIM_READY: "cloud",
    ConditionType.NODES_READY: "node",
    ConditionType.RESOURCE_READY: "node",
    ConditionType.JOB_STARTED: "pod",
    ConditionType.INFERENCE_READY: "server",
    ConditionType.WORKSPACE_SUCCEEDED: "run",
    "Retuning": "adapter",
    "Promotion": "adapter",
}
_FATES = {
    Fate.SERVING: "promoted",
    Fate.SERVED: "replaced",
    Fate.KEPT_OUT: "kept out",
}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One line; at: UTC as Kubernetes writes it, empty = an earlier version did not note it."""

    at: str
    place: str
    what: str
    told: str
    is_warning: bool = False


def time_line(status: WorkspaceStatus, events: Iterable[RecordedEvent]) -> list[Moment]:
    """All that is known, oldest first."""
    found = [
        *(_of_event(event) for event in events),
        *_of_machines(status.cost.machines),
        *_of_steps(status),
        *_of_adapters(status),
        *_of_retuning(status),
    ]
    return sorted(found, key=lambda moment: moment.at)


def _of_event(event: RecordedEvent) -> Moment:
    kind = event.message.partition(" ")[0]
    times = f" (x{event.count})" if event.count > 1 else ""
    return Moment(
        at=event.at,
        place=_PLACES.get(kind, "run"),
        what=f"{event.reason}{times}",
        told="; ".join(event.message.splitlines()),
        is_warning=event.is_warning,
    )


def _of_machines(machines: Iterable[HeldMachine]) -> Iterator[Moment]:
    for each in machines:
        price = f"${each.price_per_hour:,.2f} an hour" if each.price_per_hour else "price unknown"
        told = f"{each.name}: {each.capacity_type} {each.instance_type}, {price}"
        yield Moment(at=each.since, place="cloud", what="claimed", told=told)
        if each.until:
            hours = each.hours(utc_moment(each.until))
            paid = f", ${hours * each.price_per_hour:,.2f}" if each.price_per_hour else ""
            told = f"{each.name}: held for {duration(hours * 3600)}{paid}"
            yield Moment(at=each.until, place="cloud", what="given back", told=told)


def _of_steps(status: WorkspaceStatus) -> Iterator[Moment]:
    for step in status.steps:
        told = f"{step.seconds:.1f} s  {step.detail}".rstrip()
        yield Moment(at=step.finished, place="step", what=step.name, told=told)


def _of_adapters(status: WorkspaceStatus) -> Iterator[Moment]:
    for each in status.adapters.records:
        name = f"adapter {each.number}"
        if each.tuned:
            image = f"{name}: {each.image.reference}@{each.image.digest}"
            yield Moment(at=each.tuned, place="adapter", what="tuned", told=image)
        if each.decided and each.fate in _FATES:
            told = f"{name}, by {each.by}: {each.why}" if each.by else f"{name}: {each.why}"
            yield Moment(at=each.decided, place="adapter", what=_FATES[each.fate], told=told)


def _of_retuning(status: WorkspaceStatus) -> Iterator[Moment]:
    """The last look that had nothing to tune from; of a failure there is an event."""
    adapters = status.adapters
    if adapters.outcome is Outcome.SKIPPED:
        yield Moment(at=adapters.told_at, place="adapter", what="retuning", told=adapters.told_what)
