"""What the watcher tells Prometheus: Workspaces, what they hold, starts, and its own health."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flows.metrics import ProgramMetrics
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.news import known_reason
from tasks.contract.status import State

_STATES = [state.value for state in State]
Manifests = Callable[[], Iterable[Mapping[str, Any]]]

# Why a run is started, as the first word of a start's reason has it.
_OF_REASON = {"repair": "repair", "edit": "edit", "looked at again": "retry"}


class WatcherMetrics(ProgramMetrics):
    """The watcher's registry."""

    def __init__(self) -> None:
        super().__init__()
        self.leading = Gauge(
            "kaitoflow_watcher_leading",
            "Whether this replica of the watcher leads; the others tell of no Workspace.",
            registry=self.registry,
        )
        self._starts = Counter(
            "kaitoflow_starts",
            "Runs that were asked for, by why: new, edit, repair, retry (a failure of the world is "
            "looked at again), again (it was lost, or stopped and resumed).",
            ("reason",),
            registry=self.registry,
        )
        self.lost = Counter(
            "kaitoflow_runs_lost",
            "Runs that ended without a word in the status, and were asked for anew.",
            registry=self.registry,
        )
        self.creating = Gauge(
            "kaitoflow_watcher_runs_being_created",
            "Runs that Prefect's server is asked for now, or that wait for their turn to be.",
            registry=self.registry,
        )

    def started(self, *, generation: int, attempt: int, reason: str) -> None:
        """A run was asked for; `reason` is the start's, such as `repair: Service deleted`."""
        self._starts.labels(start_class(generation, attempt, reason)).inc()

    def watch(
        self, manifests: Manifests, *, age_s: Callable[[], float], looks: Callable[[], int]
    ) -> None:
        """Look at the Workspaces, as the watch has shown them last, whenever somebody asks.

        Args:
            age_s: for how long the watch has not shown what a list shows.
            looks: how many Workspaces are being looked at, or are to be.
        """
        self.registry.register(_Workspaces(manifests))
        now: dict[tuple[str, str], Callable[[], float]] = {
            (
                "kaitoflow_watcher_watch_age_seconds",
                "For how long the watch has not shown what a list shows.",
            ): age_s,
            (
                "kaitoflow_watcher_looks",
                "Workspaces that are being looked at, or wait to be, since something has changed.",
            ): looks,
        }
        for (name, text), read in now.items():
            Gauge(name, text, registry=self.registry).set_function(read)


def start_class(generation: int, attempt: int, reason: str) -> str:
    """The class of a start, of which there are five."""
    named = _OF_REASON.get(reason.partition(":")[0])
    if named:
        return named
    if attempt:
        return "again"
    return "new" if generation == 1 else "edit"


class _Workspaces(Collector):
    """Workspaces by state and reason, and the machines that are held for them."""

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count what is in memory now."""
        statuses = [manifest.get("status") or {} for manifest in self._manifests()]
        now = datetime.now(UTC)
        costs = [_cost(status, now) for status in statuses]
        held = [machine for cost in costs for machine in cost.machines if not machine.until]
        yield _workspaces(statuses)
        yield from _machines(held)
        cost = GaugeMetricFamily(
            "kaitoflow_workspaces_cost_usd",
            "What the machines of the Workspaces that are there have cost so far, as far as their "
            "prices are known.",
        )
        cost.add_metric((), sum(each.price_usd or 0 for each in costs))
        yield cost


def _workspaces(statuses: Iterable[Mapping[str, Any]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "kaitoflow_workspaces",
        "Workspaces by their state, and by the reason why they are not there yet.",
        labels=("state", "reason"),
    )
    told = Count(_told(status) for status in statuses)
    # What an alert looks for is there also while there is none.
    told.update({(state, ""): 0 for state in _STATES})
    for (state, reason), number in sorted(told.items()):
        family.add_metric((state, reason), number)
    return family


def _told(status: Mapping[str, Any]) -> tuple[str, str]:
    state = status.get("state")
    known = state if state in _STATES else State.PENDING.value
    return known, known_reason(status.get("reason") or "")


def _cost(status: Mapping[str, Any], now: datetime) -> Cost:
    """What its machines have cost by now; of a status that was made by hand maybe nothing."""
    try:
        return Cost.model_validate(status.get("cost") or {}).at(now)
    except ValueError:
        return Cost()


def _machines(held: Iterable[HeldMachine]) -> Iterable[GaugeMetricFamily]:
    by_kind: dict[tuple[str, str], list[HeldMachine]] = {}
    for machine in held:
        kind = (machine.instance_type, machine.capacity_type)
        by_kind.setdefault(kind, []).append(machine)
    labels = ("instance_type", "capacity_type")
    number = GaugeMetricFamily(
        "kaitoflow_nodes_held",
        "Machines that were made for Workspaces and are held.",
        labels=labels,
    )
    unpriced = GaugeMetricFamily(
        "kaitoflow_nodes_held_unpriced",
        "Those of them whose price the price table does not say.",
        labels=labels,
    )
    price = GaugeMetricFamily(
        "kaitoflow_nodes_held_usd_per_hour", "What they cost an hour together.", labels=labels
    )
    for kind, machines in sorted(by_kind.items()):
        prices = [machine.price_per_hour for machine in machines]
        number.add_metric(kind, len(machines))
        unpriced.add_metric(kind, prices.count(None))
        price.add_metric(kind, sum(each or 0 for each in prices))
    return (number, unpriced, price)
