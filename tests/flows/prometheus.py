"""What a program tells Prometheus, read as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from flows.metrics import ProgramMetrics

Samples = dict[tuple[str, ...], float]


def samples(metrics: ProgramMetrics, name: str) -> Samples:
    """The values of a metric by those of its labels, in the order of the labels' names."""
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == name
    }


def values(text: str) -> Callable[..., float]:
    """The value of a metric with these labels in a page that was scraped; 0 when it has none."""
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return lambda name, **labels: found.get((name, *sorted(labels.items())), 0.0)
