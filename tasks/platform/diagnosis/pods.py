"""The order in which a pod's possible troubles are looked at: container, eviction, scheduling."""

from collections.abc import Callable, Sequence
from datetime import datetime

from tasks.platform.diagnosis.containers import (
    diagnose_crash_loop,
    diagnose_end,
    diagnose_memory,
    diagnose_program,
    diagnose_start,
)
from tasks.platform.diagnosis.disruption import diagnose_disruption, diagnose_node
from tasks.platform.diagnosis.facts import ContainerFacts, containers, events_of, phase
from tasks.platform.diagnosis.images import diagnose_image
from tasks.platform.diagnosis.scheduling import diagnose_scheduling
from tasks.platform.diagnosis.verdict import Diagnosis
from tasks.platform.diagnosis.waiting import diagnose_preparation
from tasks.platform.wire import Seen


def diagnose_pod(
    pod: Seen,
    *,
    node: Seen | None = None,
    events: Sequence[Seen] = (),
    log_tail: str = "",
    now: datetime | None = None,
) -> Diagnosis | None:
    """What is wrong with a pod; None while it is well or may simply need more time.

    Args:
        node: the pod's node; None when it is not known.
        events: recent core/v1 Events; those of other objects are passed over.
        log_tail: the last lines of the container that ended.
        now: what was not said again in the last minutes counts as overcome; None = all counts.
    """
    if phase(pod) == "Succeeded":
        return None
    warnings = events_of(pod, events, now=now)
    # A container that was made to end has no say in why: the plain end comes after disruptions.
    checks: tuple[Callable[[ContainerFacts], Diagnosis | None], ...] = (
        lambda container: diagnose_memory(pod, container),
        lambda container: diagnose_image(pod, container, warnings),
        lambda container: diagnose_start(pod, container),
        lambda container: diagnose_program(pod, container, log_tail),
        lambda container: diagnose_crash_loop(pod, container),
    )
    return (
        _first(pod, checks)
        or diagnose_disruption(pod)
        or _first(pod, (lambda container: diagnose_end(pod, container),))
        or diagnose_node(pod, node)
        or diagnose_preparation(pod, warnings)
        or diagnose_scheduling(pod)
    )


def _first(
    pod: Seen, checks: Sequence[Callable[[ContainerFacts], Diagnosis | None]]
) -> Diagnosis | None:
    """The first verdict: check by check, each over every container."""
    verdicts = (check(container) for check in checks for container in containers(pod))
    return next(filter(None, verdicts), None)
