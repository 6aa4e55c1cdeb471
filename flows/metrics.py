"""What watcher and worker tell Prometheus alike; each has a registry of its own.

Everything is computed at the scrape from what is in memory: a scrape asks nobody anything. No label
names a Workspace, a run or a node, so that the number of series does not grow with theirs.
"""

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_NO_ANSWER = "none"
_FIRST_ERROR = 400


class ProgramMetrics:
    """A program's registry, with what it costs and how the servers that it needs answer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "kaitoflow_api_request_duration_seconds",
            "How long the API server (kubernetes) and Prefect's took to answer.",
            ("api", "method"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._errors = Counter(
            "kaitoflow_api_request_errors",
            "Answers from 400 on by their status; none = there was no answer. 404 and 409 say that "
            "something is not there, or there already, and are asked for.",
            ("api", "status"),
            registry=self.registry,
        )

    def kubernetes_answered(self, method: str, status: int, seconds: float) -> None:
        """Take in a request to the API server; status 0 = it did not answer."""
        self._answered("kubernetes", method, status, seconds)

    def prefect_answered(self, method: str, status: int, seconds: float) -> None:
        """Take in a request to Prefect's server; status 0 = it did not answer."""
        self._answered("prefect", method, status, seconds)

    def _answered(self, api: str, method: str, status: int, seconds: float) -> None:
        self._seconds.labels(api, method).observe(seconds)
        if not 0 < status < _FIRST_ERROR:
            self._errors.labels(api, str(status or _NO_ANSWER)).inc()

    async def answer(self, _request: web.Request) -> web.Response:
        """What GET /metrics is answered with."""
        return web.Response(body=self.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
