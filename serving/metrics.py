"""What /metrics tells, under vLLM's names where it means the same, so that dashboards work."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine import Engine

_FIRST_TOKEN_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_PER_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_WHOLE_S = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 240, 480)


class _AdaptersAsked(Collector):
    """The adapters in work and those waited for, with the time as the value, as vLLM tells it."""

    def __init__(self, engine: Engine, base: str, max_loaded_adapters: int | None) -> None:
        self._engine, self._base, self._most = engine, base, max_loaded_adapters

    def collect(self) -> Iterator[Metric]:
        load = self._engine.load()
        asked = [sorted(each - {self._base}) for each in (load.waiting_models, load.running_models)]
        most = self._most or len(self._engine.models) - 1
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters waited for and in work; the value is the time.",
            labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
        )
        family.add_metric([str(most), *map(",".join, asked)], time.time())
        yield family


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
        self.brought_back = Counter(
            "kaitoflow:adapters_brought_back",
            "Adapters that came from the disk into memory again.",
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

    def watch(self, engine: Engine, *, model: str, max_loaded_adapters: int | None) -> None:
        """Ask the engine how busy it is whenever somebody reads the metrics.

        model: its base's name.
        """
        load = engine.load
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

        self._registry.register(_AdaptersAsked(engine, model, max_loaded_adapters))

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)
