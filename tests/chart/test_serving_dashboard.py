"""The dashboard of servers asks for what a server tells, and the PodMonitor finds servers alone."""

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.engine import Load
from serving.metrics import Metrics
from serving.transformers_engine.prefixes import Prefixes
from tasks.contract.steps import INFERENCE
from tasks.platform.base import Pod
from tasks.platform.manifests.labels import labels_of
from tests.builders import tuning_workspace
from tests.chart.rendering import VARIANTS, Object, find, render

OF_THE_TARGET = {"namespace", "pod"}
SERIES = re.compile(r"\b((?:vllm|kaitoflow):\w+)(?:\{([^}]*)\})?")


class Idle:
    """An engine that has nothing to do."""

    models = frozenset({"base"})

    def load(self) -> Load:
        return Load(running=0, waiting=0, cache_usage=0.0)


@pytest.fixture
def told() -> dict[str, set[str]]:
    """Every series that a server tells once it has been asked, with its labels."""
    metrics = Metrics()
    metrics.watch(Idle(), model="base", max_loaded_adapters=None)  # type: ignore[arg-type]
    by_model = (metrics.prompt_tokens, metrics.generation_tokens, metrics.failed)
    for each in (*by_model, metrics.brought_back, metrics.first_token_s):
        each.labels("base")
    metrics.between_tokens_s.labels("base")
    metrics.request_s.labels("base")
    metrics.finished.labels("base", "stop")
    metrics.refused.labels("429")
    prefixes = Prefixes(most_tokens=0, identity=str)
    found: dict[str, set[str]] = {}
    for text in (metrics.text().decode(), prefixes.metrics()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> Object:
    config_map = find(render(VARIANTS["monitored"]), "ConfigMap", "kaitoflow-dashboard")
    board: Object = json.loads(config_map["data"]["kaitoflow-servers.json"])
    return board


def expressions() -> list[str]:
    board = dashboard()
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]


def test_what_is_shown_of_servers_is_told_by_them_with_these_labels(
    told: dict[str, set[str]],
) -> None:
    for expression in expressions():
        asked = SERIES.findall(expression)
        assert asked, expression
        for name, matchers in asked:
            assert name in told, expression
            labels = {each.partition("=")[0].rstrip("~!") for each in matchers.split(",") if each}
            assert labels <= told[name] | OF_THE_TARGET, expression
        known = OF_THE_TARGET.union(*(told[name] for name, _ in asked))
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= known, expression


def test_all_that_a_server_counts_is_shown(told: dict[str, set[str]]) -> None:
    asked = {name for expression in expressions() for name, _ in SERIES.findall(expression)}
    counted = {name for name in told if name.endswith("_total")}
    assert counted <= asked


def test_panels_of_the_servers_do_not_lie_on_each_other() -> None:
    places = [
        (x, y)
        for panel in dashboard()["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert {x for x, _ in places} == set(range(24))


def test_the_pod_monitor_finds_servers_where_workspaces_are_and_nothing_that_trains() -> None:
    spec = find(render(VARIANTS["monitored"]), "PodMonitor", "kaitoflow-servers")["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    serving, tuning = (
        labels_of(tuning_workspace(), Pod(name=name, containers=()))
        for name in (INFERENCE, "tuning")
    )
    assert wanted <= serving.items()
    assert not wanted <= tuning.items()
    assert spec["namespaceSelector"] == {"matchNames": ["team-a"]}
    everywhere = {"allNamespaces": True, "metrics": {"podMonitor": {"enabled": True}}}
    found = find(render(everywhere), "PodMonitor", "kaitoflow-servers")["spec"]
    assert found["namespaceSelector"] == {"any": True}
