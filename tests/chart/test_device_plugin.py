"""The device plugin that the chart brings where a cluster has none."""

from typing import Any

import pytest

from tasks.nodes.selection import PLUGIN_FIX
from tasks.platform.tolerations import TOLERATIONS
from tests.chart.rendering import DIGEST, VARIANTS, Object, find, on_nodes, render, render_text

ON: Object = VARIANTS["device-plugin"]


def plugin(values: Object | None = None) -> Any:
    """The plugin's pods."""
    return find(render(ON | (values or {})), "DaemonSet", "-device-plugin")["spec"]["template"][
        "spec"
    ]


def test_none_is_brought_unless_it_is_asked_for() -> None:
    assert on_nodes(render()) == []


def test_the_value_that_brings_it_is_the_fix_for_gpus_that_nobody_counts() -> None:
    assert "devicePlugin.enabled=true" in PLUGIN_FIX
    assert {each["kind"] for each in on_nodes(render(ON))} == {"DaemonSet", "NetworkPolicy"}


def test_gpus_are_counted_on_every_node_whose_taints_pods_tolerate() -> None:
    more = {"key": "team", "operator": "Exists"}
    tolerated = plugin({"pods": {"tolerations": [more]}})["tolerations"]
    assert [each for each in [*TOLERATIONS, more] if each not in tolerated] == []


def test_it_sees_gpus_by_the_runtime_class_that_pods_do() -> None:
    assert plugin({"pods": {"runtimeClassName": "nvidia"}})["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in plugin()


def test_it_runs_on_linux_nodes_also_where_labels_are_named() -> None:
    told: Object = {"devicePlugin": {"enabled": True, "nodeSelector": {"team": "gpus"}}}
    assert plugin(told)["nodeSelector"] == {"kubernetes.io/os": "linux", "team": "gpus"}


def test_it_may_nothing_but_tell_the_kubelet() -> None:
    pod = plugin()
    [container] = pod["containers"]
    [volume] = pod["volumes"]
    assert volume["hostPath"]["path"] == container["volumeMounts"][0]["mountPath"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_it_is_pulled_from_a_mirror_by_digest() -> None:
    image = {"registry": "mirror.example.com/x", "devicePlugin": {"digest": DIGEST}}
    [container] = plugin({"image": image})["containers"]
    assert container["image"] == f"mirror.example.com/x/nvidia/k8s-device-plugin@{DIGEST}"


def test_two_plugins_of_one_node_are_refused() -> None:
    with pytest.raises(RuntimeError, match="set one of the two to false"):
        render_text(VARIANTS["aks"] | ON)
    nodes = VARIANTS["aks"]["nodes"]
    alone = {"nodes": nodes | {"azure": nodes["azure"] | {"managesGpus": False}}}
    assert on_nodes(render(ON | alone))
