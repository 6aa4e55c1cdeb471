"""Dashboard and alerts ask for what watcher and worker really tell, and the scraper is let in."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows import collect_garbage
from flows.collect_garbage import Collection
from flows.metrics import ProgramMetrics
from flows.watcher.metrics import WatcherMetrics
from flows.worker.metrics import PHASES, WorkerMetrics
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.status import WorkspaceStatus
from tasks.contract.units import utc_text
from tests.chart.rendering import CHART, NAMESPACE, VARIANTS, Object, find, render

# What Prometheus adds to every series that it reads from a pod of a Service.
OF_THE_TARGET = {"namespace", "pod", "service", "job", "instance"}
FUNCTIONS = {
    "histogram_quantile",
    "increase",
    "label_values",
    "max",
    "rate",
    "sum",
    "time",
    "vector",
}
WORDS = {"by", "or"}
SERIES = re.compile(r"\b((?:kaitoflow|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'\s*(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"\s*')


def watcher() -> ProgramMetrics:
    """A watcher's, with a value for each label that it may tell."""
    metrics = WatcherMetrics()
    machine = HeldMachine(
        name="a", instance_type="nc4", capacity_type="spot", since=utc_text(datetime.now(UTC))
    )
    status = WorkspaceStatus(cost=Cost(machines=[machine])).model_dump(mode="json", by_alias=True)
    metrics.watch(lambda: [{"status": status}], age_s=lambda: 0, looks=lambda: 0)
    metrics.started(generation=1, attempt=0, reason="")
    metrics.kubernetes_answered("GET", 500, 0.1)
    return metrics


def worker() -> ProgramMetrics:
    metrics = WorkerMetrics()
    metrics.watch(lambda: PHASES, limit=1, poll_age_s=lambda: 0)
    metrics.ended("run-workspace", "FAILED")
    return metrics


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Every series that a scrape of both programs shows, with its labels."""
    collected = Collection(time.time(), ())
    monkeypatch.setattr(collect_garbage, "_done", [collected])
    found: dict[str, set[str]] = {}
    for metrics in (watcher(), worker()):
        for family in text_string_to_metric_families(metrics.text().decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def monitored() -> list[Object]:
    return render(VARIANTS["monitored"])


def alerts() -> list[Object]:
    [group] = find(monitored(), "PrometheusRule", "kaitoflow-metrics")["spec"]["groups"]
    found: list[Object] = group["rules"]
    return found


def dashboard() -> Object:
    text = find(monitored(), "ConfigMap", "kaitoflow-dashboard")["data"]["kaitoflow.json"]
    board: Object = json.loads(text)
    return board


def expressions() -> list[str]:
    board = dashboard()
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    chosen = [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return [*shown, *chosen, *(rule["expr"] for rule in alerts())]


def test_what_is_asked_for_is_told_with_these_labels(told: dict[str, set[str]]) -> None:
    for expression in expressions():
        asked = SERIES.findall(expression)
        assert asked, expression
        for name, matchers in asked:
            assert name in told, expression
            pieces = [MATCHER.fullmatch(each) for each in matchers.split(",") if each]
            assert {piece and piece[1] for piece in pieces} <= told[name] | OF_THE_TARGET, (
                expression
            )
        known = OF_THE_TARGET.union(*(told[name] for name, _ in asked))
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= known, expression


def test_an_expression_is_whole_and_uses_functions_of_promql() -> None:
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', '""', expression)
        for opening, closing in ("()", "[]", "{}"):
            assert bare.count(opening) == bare.count(closing), expression
        called = set(re.findall(r"\b([a-z_]+) ?\(", bare))
        assert called - WORDS <= FUNCTIONS, expression


def test_a_counter_is_only_read_as_what_is_added_to_it() -> None:
    for expression in expressions():
        for before, _ in re.findall(r"(\w+\()?(\w+_(?:total|bucket))\b", expression):
            assert before in ("rate(", "increase("), expression


def test_every_series_of_ours_is_shown_and_documented(told: dict[str, set[str]]) -> None:
    suffix = re.compile(r"_(total|bucket|count|sum|created)$")
    asked = {name for expression in expressions() for name, _ in SERIES.findall(expression)}
    ours = {suffix.sub("", name) for name in told if name.startswith("kaitoflow_")}
    assert ours <= {suffix.sub("", name) for name in asked}
    documented = re.findall(r"`(kaitoflow_\w+)`", (CHART / "README.md").read_text())
    assert {suffix.sub("", name) for name in documented} == ours


def test_an_alert_says_what_and_what_to_do_and_asks_of_this_installation_alone() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) == 7
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert f'namespace="{NAMESPACE}"' in rule["expr"]


def test_no_price_is_watched_that_nobody_has_named() -> None:
    without: Any = {"metrics": {"rules": {"enabled": True}}}
    rule = find(render(without), "PrometheusRule", "kaitoflow-metrics")
    assert "usd_per_hour" not in json.dumps(rule)


def test_by_default_nothing_is_made_that_the_cluster_may_not_know() -> None:
    kinds = {each["kind"] for each in render()}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}
    assert "dashboard" not in json.dumps(render())


def test_the_service_monitor_finds_both_services_by_their_port() -> None:
    objects = monitored()
    spec = find(objects, "ServiceMonitor", "kaitoflow-metrics")["spec"]
    [endpoint] = spec["endpoints"]
    [chosen] = spec["selector"]["matchExpressions"]
    found = {}
    for service in (o for o in objects if o["kind"] == "Service"):
        labels = service["metadata"]["labels"]
        is_chosen = labels[chosen["key"]] in chosen["values"]
        if is_chosen and spec["selector"]["matchLabels"].items() <= labels.items():
            found[service["metadata"]["name"]] = [p["name"] for p in service["spec"]["ports"]]
    assert found == {name: [endpoint["port"]] for name in ("kaitoflow-watcher", "kaitoflow-worker")}


@pytest.mark.parametrize("component", ["watcher", "worker"])
def test_the_scraper_is_let_in_to_the_one_port_and_nobody_else(component: str) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    policy = find(monitored(), "NetworkPolicy", f"kaitoflow-{component}")["spec"]
    [rule] = policy["ingress"]
    assert peer in rule["from"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert (
        peer
        not in find(render(), "NetworkPolicy", f"kaitoflow-{component}")["spec"].get(
            "ingress", [{"from": []}]
        )[0]["from"]
    )
