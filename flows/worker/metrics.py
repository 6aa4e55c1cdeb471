"""What a worker tells Prometheus: runs that it holds, runs that have ended, and the last leaks."""

from collections import Counter as Count
from collections.abc import Callable, Iterable
from time import time

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flows.collect_garbage import last_collection
from flows.metrics import ProgramMetrics

# A worker that has not collected for so long leaves it to the one that does, so that no leak is
# told twice: collections are ten minutes apart.
_COLLECTION_COUNTS_S = 1800.0


class WorkerMetrics(ProgramMetrics):
    """A worker's registry."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = Counter(
            "kaitoflow_runs_ended",
            "Runs that this worker has let go, by their flow and Prefect's word for their end; "
            "HANDED_ON = another worker goes on with it.",
            ("flow", "state"),
            registry=self.registry,
        )
        self.registry.register(_LastCollection())

    def ended(self, flow: str, state: str) -> None:
        """A run is held no more."""
        self._ended.labels(flow, state).inc()

    def watch(
        self, phases: Callable[[], Iterable[str]], *, limit: int, poll_age_s: Callable[[], float]
    ) -> None:
        """Look at the runs that are held whenever somebody asks.

        Args:
            phases: where each of them stands: one of `PHASES`.
            poll_age_s: for how long Prefect's server was not asked for new runs.
        """
        self.registry.register(_Runs(phases))
        most = Gauge(
            "kaitoflow_worker_runs_limit",
            "Runs that this worker holds at once, at most.",
            registry=self.registry,
        )
        most.set(limit)
        age = Gauge(
            "kaitoflow_worker_poll_age_seconds",
            "For how long Prefect's server was not asked for new runs.",
            registry=self.registry,
        )
        age.set_function(poll_age_s)


PHASES = ("waiting", "running", "ending")


class _Runs(Collector):
    def __init__(self, phases: Callable[[], Iterable[str]]) -> None:
        self._phases = phases

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "kaitoflow_worker_runs",
            "Runs that this worker holds: waiting for their turn to begin, running, or ending.",
            labels=("phase",),
        )
        held = Count(self._phases())
        for phase in PHASES:
            family.add_metric((phase,), held[phase])
        yield family


class _LastCollection(Collector):
    def collect(self) -> Iterable[GaugeMetricFamily]:
        # It knows the API server's client, whose import takes a second.
        from tasks.nodes.garbage.leaks import LeakKind

        number = GaugeMetricFamily(
            "kaitoflow_leaks",
            "What the last collection found leaked and could not remove; told by the worker that "
            "has collected last.",
            labels=("kind",),
        )
        price = GaugeMetricFamily(
            "kaitoflow_leaks_usd_per_hour", "What they cost an hour together.", labels=("kind",)
        )
        at = GaugeMetricFamily(
            "kaitoflow_leak_collection_timestamp_seconds", "When leaks were collected last."
        )
        found = last_collection()
        if found and time() - found.at_s < _COLLECTION_COUNTS_S:
            at.add_metric((), found.at_s)
            for kind in LeakKind:
                those = [leak for leak in found.kept if leak.kind == kind]
                number.add_metric((kind.value,), len(those))
                price.add_metric((kind.value,), sum(leak.price_per_hour or 0 for leak in those))
        return (number, price, at)
