"""What /metrics tells, under vLLM's names where it means the same, so that dashboards work."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.engine import Load

_FIRST_TOKEN_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_PER_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_WHOLE_S = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 240, 480)


class Metrics:
    """The server's counters; label model_name is the name that the request was answered under."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        label = ("model_name",)
        self.prompt_tokens = Counter(
            "vllm:prompt_tokens", "Prompt tokens read.", label, registry=self._registry
        )
        self.generation_tokens = Counter(
            "vllm:generation_tokens", "Tokens generated.", label, registry=self._registry
        )
        self.finished = Counter(
            "vllm:request_success",
            "Continuations that ended well.",
            (*label, "finished_reason"),
            registry=self._registry,
        )
        self.refused = Counter(
            "kaitoflow:requests_refused",
            "Requests answered 4xx.",
            ("status",),
            registry=self._registry,
        )
        self.failed = Counter(
            "kaitoflow:requests_failed",
            "Requests that a model did not answer.",
            label,
            registry=self._registry,
        )
        self.first_token_s = self._histogram(
            "vllm:time_to_first_token_seconds",
            "From the request to its first token.",
            _FIRST_TOKEN_S,
        )
        self.between_tokens_s = self._histogram(
            "vllm:inter_token_latency_seconds", "From one token to the next.", _PER_TOKEN_S
        )
        self.request_s = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its last token.", _WHOLE_S
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name",), buckets=buckets, registry=self._registry)

    def watch(self, load: Callable[[], Load], *, model: str) -> None:
        """Ask the engine how busy it is whenever somebody reads the metrics."""
        gauges: dict[tuple[str, str], Callable[[], float]] = {
            ("vllm:num_requests_running", "Continuations in work."): lambda: load().running,
            ("vllm:num_requests_waiting", "Continuations waiting."): lambda: load().waiting,
            ("vllm:kv_cache_usage_perc", "Share of the cache in use, 1 is all."): (
                lambda: load().cache_usage
            ),
        }
        for (name, text), read in gauges.items():
            gauge = Gauge(name, text, ("model_name",), registry=self._registry)
            gauge.labels(model).set_function(read)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)
