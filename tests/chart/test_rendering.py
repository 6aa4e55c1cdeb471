import copy
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from flows.watcher.settings import WatcherSettings
from flows.worker.settings import WorkerSettings
from tasks.platform.manifests import MANAGED_BY
from tasks.settings import Settings
from tests.chart.rendering import (
    CHART,
    CRDS,
    DIGEST,
    NAMESPACE,
    ROOT,
    VARIANTS,
    Object,
    containers,
    environment,
    find,
    helm,
    pod_specs,
    render,
    render_text,
)

VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text())
CLUSTERWIDE = (
    *("ClusterRole", "ClusterRoleBinding"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
)
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def merged(values: Object, changes: Object) -> Object:
    """Values with changes laid over, as helm does it."""
    whole = copy.deepcopy(values)
    for key, value in changes.items():
        below = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = merged(whole[key], value) if below else value
    return whole


def leaves(values: Object, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each single value with its path."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *above, key)
        else:
            yield (*above, key), value


# Values that not every other value may take the place of.
OTHER_VALUES: dict[str, Any] = {
    "provisioner": "karpenter",
    "allowFrom": [{"namespaceSelector": {}}],
    "allowToPrefect": [{"namespaceSelector": {}}],
    "cpu": "7",
    "digest": DIGEST,
    "externalUrl": "https://elsewhere.example.com/api",
    "kind": "sqlite",
    "memory": "7Gi",
    "pullPolicy": "Always",
    "size": "7Gi",
    "tolerations": [{"operator": "Exists"}],
    "uiApiUrl": "/elsewhere/api",
}


def other(name: str, value: Any) -> Any:
    """Something that the schema lets stand in place of a value."""
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    others: dict[type, Any] = {str: "other", list: ["other"], dict: {"other": "other"}}
    return others[type(value)]


def nested(path: tuple[str, ...], value: Any) -> Object:
    """Values that say this one alone."""
    first, *below = path
    return {first: nested(tuple(below), value) if below else value}


def without_passwords(text: str) -> str:
    """What is made anew with each rendering is no effect of a value."""
    return re.sub(r"^  (auth-string|password): .*$", "", text, flags=re.MULTILINE)


def changes_something(path: tuple[str, ...], values: Object) -> bool:
    """Whether another value at this path makes other manifests."""
    here = dict(leaves(merged(VALUES, values))).get(path)
    if here is None:
        return False  # this variant has filled what is empty in the chart
    changed = merged(values, nested(path, other(path[-1], here)))
    return without_passwords(render_text(values)) != without_passwords(render_text(changed))


@each_variant
def test_helm_finds_no_fault(variant: str) -> None:
    said = helm("lint", CHART, "--strict", "--values=-", stdin=json.dumps(VARIANTS[variant]))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("path", [path for path, _ in leaves(VALUES)], ids=".".join)
def test_every_value_has_an_effect(path: tuple[str, ...]) -> None:
    assert any(changes_something(path, values) for values in reversed(VARIANTS.values()))


def test_every_value_has_a_comment_above_it() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    leaf_names = {path[-1] for path, _ in leaves(VALUES)}
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if (name := re.match(r" *(\w+): *\S", line)) is not None
        and name[1] in leaf_names - {"requests", "limits"}
        and not above.strip().startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"wroker": {"replicas": 3}}, "'wroker' not allowed"),
        ({"worker": {"replica": 3}}, "'replica' not allowed"),
        ({"watcher": {"replicas": 0}}, "minimum: got 0, want 1"),
        ({"database": {"kind": "mysql"}}, "must be one of 'postgresql', 'external', 'sqlite'"),
        ({"database": {"kind": "external"}}, "name a Secret with key connection-url"),
        ({"prefect": {"externalUrl": "prefect.example.com"}}, "does not match pattern"),
        ({"prefect": {"ingress": {"enabled": True}}}, "set prefect.ingress.host"),
        ({"image": {"pod": {"digest": "latest"}}}, "does not match pattern"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_with_what_to_do(wrong: Object, told: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(told)):
        render_text(wrong)


def test_the_crd_is_the_one_of_deployments_without_a_copy() -> None:
    assert (CHART / "crds").is_symlink()
    (source,) = CRDS.glob("*.yaml")
    rendered = find(render(with_crds=True), "CustomResourceDefinition", "workspaces.kaito.sh")
    assert rendered == yaml.safe_load(source.read_text())


@each_variant
def test_all_containers_are_restricted(variant: str) -> None:
    for name, spec in pod_specs(render(VARIANTS[variant])):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, container in containers(render(VARIANTS[variant])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


@each_variant
def test_all_containers_have_memory_limits_and_are_probed(variant: str) -> None:
    for name, container in containers(render(VARIANTS[variant])):
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["cpu"], name
        assert {"startupProbe", "livenessProbe"} <= set(container), name


@each_variant
def test_services_are_not_told_to_pods_as_variables(variant: str) -> None:
    """KAITOFLOW_WORKER_PORT=tcp://10.96.0.7:8080 would be read as a setting."""
    assert all(spec["enableServiceLinks"] is False for _, spec in pod_specs(render()))


@each_variant
def test_only_watcher_and_worker_hold_a_token(variant: str) -> None:
    holders = {
        name
        for name, spec in pod_specs(render(VARIANTS[variant]))
        if spec.get("automountServiceAccountToken") is not False
    }
    assert holders == {"kaitoflow-watcher", "kaitoflow-worker"}


@each_variant
def test_no_password_stands_in_a_pod(variant: str) -> None:
    for _, container in containers(render(VARIANTS[variant])):
        told = [v for v in container["env"] if re.search("PASSWORD|AUTH|KEY", v["name"])]
        assert all("secretKeyRef" in v["valueFrom"] for v in told)


def test_air_gapped_every_image_is_the_mirrors_by_digest() -> None:
    objects = render(VARIANTS["air-gapped"])
    images = {container["image"] for _, container in containers(objects)}
    images.add(environment(objects, "worker")["KAITOFLOW_POD_IMAGE"])
    assert images == {
        f"mirror.example.com/kaitoflow/kaitoflow/control@{DIGEST}",
        f"mirror.example.com/kaitoflow/kaitoflow/pod@{DIGEST}",
        f"mirror.example.com/kaitoflow/library/postgres@{DIGEST}",
    }
    assert "docker.io" not in render_text(VARIANTS["air-gapped"])
    assert all(spec["imagePullSecrets"] == [{"name": "mirror"}] for _, spec in pod_specs(objects))


def test_no_image_is_taken_as_the_latest() -> None:
    assert all(not c["image"].endswith(":latest") for _, c in containers(render()))
    assert all(":" in c["image"].rpartition("/")[2] for _, c in containers(render()))


def test_the_images_have_the_chart_s_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    objects = render()
    assert environment(objects, "worker")["KAITOFLOW_POD_IMAGE"] == f"kaitoflow/pod:{version}"
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


def test_on_sqlite_all_workers_together_hold_twenty_runs() -> None:
    limits = {
        replicas: environment(
            render({"database": {"kind": "sqlite"}, "worker": {"replicas": replicas}}), "worker"
        )["KAITOFLOW_WORKER_LIMIT"]
        for replicas in (1, 2)
    }
    assert limits == {1: "20", 2: "10"}
    assert environment(render(), "worker")["KAITOFLOW_WORKER_LIMIT"] == "200"


@each_variant
def test_the_product_knows_every_setting_it_is_given(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: dict[str, tuple[type[BaseSettings], ...]] = {
        "watcher": (Settings, WatcherSettings),
        "worker": (Settings, WorkerSettings),
    }
    for component, known in models.items():
        given = environment(render(VARIANTS[variant]), component)
        names = {
            f"{model.model_config['env_prefix']}{field}".upper()
            for model in known
            for field in model.model_fields
        }
        assert {name for name in given if name.startswith("KAITOFLOW_")} <= names
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert all(model() for model in known)


def test_the_worker_alone_is_told_whose_agent_pools_it_makes() -> None:
    objects = render(VARIANTS["aks"])
    azure = {k: v for k, v in environment(objects, "worker").items() if "_AZURE_" in k}
    assert azure == {
        "KAITOFLOW_AZURE_SUBSCRIPTION_ID": "0-0",
        "KAITOFLOW_AZURE_RESOURCE_GROUP": "team",
        "KAITOFLOW_AZURE_CLUSTER": "gpus",
        "KAITOFLOW_AZURE_LOCATION": "eastus",
        "KAITOFLOW_AZURE_MANAGES_GPUS": "true",
    }
    assert "_AZURE_" not in str(environment(objects, "watcher"))
    assert "_AZURE_" not in render_text(VARIANTS["karpenter"])


def test_an_outside_prefect_server_leaves_no_server_and_no_database() -> None:
    objects = render(VARIANTS["outside-prefect"])
    names = {o["metadata"]["name"] for o in objects if o["kind"] in ("Deployment", "StatefulSet")}
    assert names == {"kaitoflow-watcher", "kaitoflow-worker"}
    assert environment(objects, "worker")["PREFECT_API_URL"] == "https://prefect.example.com/api"
    assert not [o for o in objects if o["kind"] == "Secret"]


@each_variant
def test_no_object_lies_outside_its_namespace(variant: str) -> None:
    told = VARIANTS[variant].get("namespaces", [])
    for each in render(VARIANTS[variant]):
        where = each["metadata"].get("namespace")
        clusterwide = each["kind"] in CLUSTERWIDE
        assert where is None if clusterwide else where in {NAMESPACE, *told}, each["kind"]


def test_cluster_wide_objects_of_two_installations_never_share_a_name() -> None:
    objects = [o for n in ("kaito", "kaitoflow", "n" * 63) for o in render(namespace=n)]
    names = [(o["kind"], o["metadata"]["name"]) for o in objects if o["kind"] in CLUSTERWIDE]
    assert len(names) == len(set(names)) >= 3 * 4


@each_variant
def test_a_policy_guards_every_pod(variant: str) -> None:
    objects = render(VARIANTS[variant])
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    here = [o for o in policies if o["metadata"]["namespace"] == NAMESPACE]
    guarded = [o["spec"]["podSelector"]["matchLabels"] for o in here]
    workloads = [o for o in objects if "template" in o.get("spec", {})]
    assert sorted(str(labels) for labels in guarded) == sorted(
        str(o["spec"]["selector"]["matchLabels"]) for o in workloads
    )


def test_who_may_reach_whom() -> None:
    reached_by = {
        o["metadata"]["name"].removeprefix("kaitoflow-"): {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in o["spec"].get("ingress", [])
            for peer in rule["from"]
        }
        for o in render()
        if o["kind"] == "NetworkPolicy"
    }
    assert reached_by == {
        "watcher": set(),
        "worker": {"watcher"},
        "prefect": {"watcher", "worker"},
        "postgresql": {"prefect"},
    }


IDENTITY = {"azure.workload.identity/client-id": "0-0"}


def pod_labels(values: Object, component: str) -> Object:
    [found] = [
        o
        for o in render(values)
        if "template" in o.get("spec", {}) and o["metadata"]["name"].endswith(f"-{component}")
    ]
    labels: Object = found["spec"]["template"]["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    return labels


@pytest.mark.parametrize("component", ["watcher", "worker"])
def test_an_identity_of_azure_reaches_the_pods_of_its_account(component: str) -> None:
    use = "azure.workload.identity/use"
    assert use not in pod_labels({}, component)
    told = {component: {"serviceAccount": {"annotations": IDENTITY}}}
    assert pod_labels(told, component)[use] == "true"
    told[component]["podLabels"] = {use: "false"}  # type: ignore[dict-item]
    assert pod_labels(told, component)[use] == "false"


@pytest.mark.parametrize(
    ("component", "values"),
    [
        *((c, {c: {"podLabels": {"team": "ml"}}}) for c in ("watcher", "worker", "prefect")),
        ("postgresql", {"database": {"postgresql": {"podLabels": {"team": "ml"}}}}),
    ],
)
def test_labels_of_pods_are_added_and_never_hide_a_pod_from_its_owner(
    component: str, values: Object
) -> None:
    assert pod_labels(values, component)["team"] == "ml"
    label = "app.kubernetes.io/component"
    text = json.dumps(values).replace("team", label)
    assert pod_labels(json.loads(text), component)[label] == component


def test_workspaces_pods_are_guarded_where_their_namespaces_are_named() -> None:
    wanted = {"networkPolicy": {"workspaces": {"enabled": True}}}
    with pytest.raises(RuntimeError, match="name those in which Workspaces are run"):
        render(wanted)
    found = [
        o
        for o in render(VARIANTS["ingress"])
        if o["kind"] == "NetworkPolicy" and o["metadata"]["namespace"] != NAMESPACE
    ]
    assert [o["metadata"]["namespace"] for o in found] == ["team-a", "team-b"]
    for policy in found:
        labels = policy["spec"]["podSelector"]["matchLabels"]
        assert labels == MANAGED_BY
        [v4, _v6] = policy["spec"]["egress"][0]["to"]
        assert v4["ipBlock"]["except"] == ["169.254.169.254/32"]
