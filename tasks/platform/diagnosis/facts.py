"""What the API server's dicts say, in the words that the verdicts need. Nothing is judged here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.contract.quantity import parse_quantity
from tasks.platform.wire import Seen

# The kubelet mounts again after two minutes at the latest, the Job controller creates after one:
# what was not said again since then has been overcome.
_EVENT_AGE = timedelta(minutes=3)


@dataclass(frozen=True, kw_only=True)
class ContainerFacts:
    """One container: what was asked for and how it is.

    last_ended: the end before the present state; empty before the first restart.
    """

    name: str
    is_init: bool
    image: str
    memory_limit: str | None
    restarts: int
    is_ready: bool
    waiting: Seen
    running: Seen | None
    ended: Seen
    last_ended: Seen

    @property
    def title(self) -> str:
        """`container serve`, `init container tune`."""
        return f"{'init ' if self.is_init else ''}container {self.name}"

    @property
    def last_end(self) -> Seen:
        """How it ended, now or before it was started again; empty while it never has."""
        return self.ended or self.last_ended


def containers(pod: Seen) -> Iterator[ContainerFacts]:
    """Every container with its state, init containers first, each in the order of the spec."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    for is_init, field in ((True, "initContainer"), (False, "container")):
        states = {s["name"]: s for s in status.get(f"{field}Statuses") or ()}
        for container in spec.get(f"{field}s") or ():
            yield _container(container, states.get(container["name"], {}), is_init=is_init)


def _container(spec: Seen, status: Seen, *, is_init: bool) -> ContainerFacts:
    state = status.get("state") or {}
    limits = (spec.get("resources") or {}).get("limits") or {}
    return ContainerFacts(
        name=spec["name"],
        is_init=is_init,
        image=spec.get("image") or "",
        memory_limit=limits.get("memory"),
        restarts=status.get("restartCount") or 0,
        is_ready=bool(status.get("ready")),
        waiting=state.get("waiting") or {},
        running=state.get("running"),
        ended=state.get("terminated") or {},
        last_ended=(status.get("lastState") or {}).get("terminated") or {},
    )


def phase(pod: Seen) -> str:
    """`Pending`, `Running`, `Succeeded` or `Failed`."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def node_name(pod: Seen) -> str:
    """The node that the pod was given; empty while it has none."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def restarts_containers(pod: Seen) -> bool:
    """Whether the kubelet starts a container again after it failed."""
    return bool((pod.get("spec") or {}).get("restartPolicy") != "Never")


def requests(pod: Seen) -> dict[str, str]:
    """What the scheduler must find free on one node, as it was written, GPUs first.

    Init containers run one after the other and before the others: the larger need counts.
    """
    spec = pod.get("spec") or {}
    together: dict[str, list[str]] = {}
    for container in spec.get("containers") or ():
        for resource, amount in _requests(container).items():
            together.setdefault(resource, []).append(amount)
    needs = {resource: _sum(amounts) for resource, amounts in together.items()}
    for container in spec.get("initContainers") or ():
        for resource, amount in _requests(container).items():
            needs[resource] = max(needs.get(resource, "0"), amount, key=parse_quantity)
    first = sorted(needs, key=lambda resource: ("/" not in resource, resource))
    return {resource: needs[resource] for resource in first if parse_quantity(needs[resource])}


def _requests(container: Seen) -> dict[str, str]:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: str(amount) for resource, amount in asked.items()}


def _sum(amounts: Sequence[str]) -> str:
    return amounts[0] if len(amounts) == 1 else f"{sum(map(parse_quantity, amounts)):g}"


def node_labels(pod: Seen) -> str:
    """The labels that a node must have, as kubectl would write the selector; empty for any."""
    spec = pod.get("spec") or {}
    wanted = [f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items()]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        ",".join(expression_text(e) for e in term.get("matchExpressions") or ())
        for term in required.get("nodeSelectorTerms") or ()
    ]
    return ",".join([*wanted, *([" or ".join(terms)] if any(terms) else [])])


def expression_text(expression: Seen) -> str:
    """A matchExpression as kubectl writes it: `apps in (a, b)`."""
    key, values = expression["key"], list(expression.get("values") or ())
    match expression["operator"]:
        case "In" if len(values) == 1:
            return f"{key}={values[0]}"
        case "Exists":
            return str(key)
        case "DoesNotExist":
            return f"!{key}"
        case operator:
            return f"{key} {operator.lower()} ({', '.join(values)})"


def events_of(thing: Seen, events: Sequence[Seen], *, now: datetime | None) -> list[Seen]:
    """The object's own warnings, newest first; with `now`, only those that still count."""
    own = [e for e in events if e.get("type") != "Normal" and _is_about(e, thing)]
    if now:
        own = [e for e in own if now - _time(e) <= _EVENT_AGE]
    return sorted(own, key=_time, reverse=True)


def _is_about(event: Seen, thing: Seen) -> bool:
    about, metadata = event.get("involvedObject") or {}, thing["metadata"]
    if about.get("uid") and metadata.get("uid"):
        return bool(about["uid"] == metadata["uid"])
    return bool(about.get("name") == metadata["name"])


def _time(event: Seen) -> datetime:
    series = event.get("series") or {}
    text = (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or (event.get("metadata") or {}).get("creationTimestamp")
        or "1970-01-01T00:00:00Z"
    )
    return datetime.fromisoformat(str(text))
