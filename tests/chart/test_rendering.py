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
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.settings import Settings
from tests.chart.rendering import (
    CHART,
    CRDS,
    DIGEST,
    NAMESPACE,
    RELEASE,
    ROOT,
    VARIANTS,
    Object,
    containers,
    environment,
    find,
    helm,
    hooks,
    pod_specs,
    render,
    render_text,
    restricted,
    served,
    servers,
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
    "allowTo": [{"namespaceSelector": {}}],
    "allowToPrefect": [{"namespaceSelector": {}}],
    "cpu": "7",
    "digest": DIGEST,
    "interval": "7m",
    "externalUrl": "https://elsewhere.example.com/api",
    "extraVolumeMounts": [{"name": "other", "mountPath": "/other"}],
    "extraVolumes": [{"name": "other", "emptyDir": {}}],
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
    if isinstance(value, int | float):
        return value + 1
    others: dict[type, Any] = {str: "other", list: ["other"], dict: {"other": "other"}}
    return others[type(value)]


def nested(path: tuple[str, ...], value: Any) -> Object:
    """Values that say this one alone."""
    first, *below = path
    return {first: nested(tuple(below), value) if below else value}


def changes_something(path: tuple[str, ...], values: Object) -> bool:
    """Whether another value at this path makes other manifests."""
    here = dict(leaves(merged(VALUES, values))).get(path)
    if here is None:
        return False  # this variant has filled what is empty in the chart
    if path == ("allNamespaces",):  # it takes the place of another value
        return render_text(VARIANTS["default"]) != render_text(VARIANTS["everywhere"])
    changed = merged(values, nested(path, other(path[-1], here)))
    return render_text(values) != render_text(changed)


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
        ({"namespaces": []}, "set namespaces={team-a,team-b}, or allNamespaces=true"),
        ({"namespaces": ["a"], "allNamespaces": True}, "leave one of them out"),
        ({"image": {"registry": "oci://r.io/x"}}, "remove what stands before ://"),
        ({"image": {"registry": "me:secret@r.io"}}, "put logins into image.pullSecrets"),
        ({"image": {"registry": "r.io/Team"}}, "the path in small letters; write it so"),
        ({"image": {"control": {"repository": "https://r.io/x"}}}, "remove what stands before ://"),
        ({"image": {"control": {"repository": "r.io:5000/x:1"}}}, "move that to image.control.tag"),
        ({"image": {"pod": {"repository": f"x@{DIGEST}"}}}, "move that to image.pod.digest"),
        ({"image": {"pod": {"repository": "Team/x"}}}, "the path in small letters"),
        ({"image": {"pod": {"tag": f"1@{DIGEST}"}}}, "move sha256:... to image.pod.digest"),
        ({"image": {"pod": {"tag": "x:1"}}}, "write the tag alone"),
        ({"pods": {"insecureRegistries": ["http://r:80"]}}, "leave out the scheme"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_with_what_to_do(wrong: Object, told: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(told)):
        render_text(wrong)


def test_the_crd_is_the_one_of_deployments_without_a_copy() -> None:
    assert (CHART / "crds").is_symlink()
    rendered = render(with_crds=True)
    for kind in ("workspaces", "inferencesets"):
        source = yaml.safe_load((CRDS / f"kaito.sh_{kind}.yaml").read_text())
        assert find(rendered, "CustomResourceDefinition", f"{kind}.kaito.sh") == source


@each_variant
def test_all_containers_are_restricted(variant: str) -> None:
    objects = restricted(render(VARIANTS[variant]))
    for name, spec in pod_specs(objects):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


@each_variant
def test_all_containers_have_memory_limits_and_are_probed(variant: str) -> None:
    objects = render(VARIANTS[variant])
    for name, container in containers(objects):
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["cpu"], name
    for name, container in containers(restricted(servers(objects))):
        assert {"startupProbe", "livenessProbe"} <= set(container), name


@each_variant
def test_services_are_not_told_to_pods_as_variables(variant: str) -> None:
    """KAITOFLOW_WORKER_PORT=tcp://10.96.0.7:8080 would be read as a setting."""
    specs = pod_specs(render(VARIANTS[variant]))
    assert all(spec["enableServiceLinks"] is False for _, spec in specs)


@each_variant
def test_only_watcher_and_worker_hold_a_token(variant: str) -> None:
    holders = {
        name
        for name, spec in pod_specs(servers(render(VARIANTS[variant])))
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
    told = environment(objects, "worker")
    images |= {told["KAITOFLOW_POD_IMAGE"], told["KAITOFLOW_VLLM_IMAGE"]}
    assert images == {
        f"mirror.example.com/kaitoflow/kaitoflow/control@{DIGEST}",
        f"mirror.example.com/kaitoflow/kaitoflow/pod@{DIGEST}",
        f"mirror.example.com/kaitoflow/kaitoflow/vllm@{DIGEST}",
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
    told = environment(objects, "worker")
    assert told["KAITOFLOW_POD_IMAGE"] == f"kaitoflow/pod:{version}"
    assert told["KAITOFLOW_VLLM_IMAGE"] == f"kaitoflow/vllm:{version}"
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


def test_servers_ask_for_keys_where_that_is_set_alone() -> None:
    name = "KAITOFLOW_SERVER_ASKS_FOR_KEYS"
    assert name not in environment(render(), "worker")
    asking = render({"pods": {"serverAsksForKeys": True}})
    assert environment(asking, "worker")[name] == "true"


def test_the_worker_is_told_what_pods_ask_for_and_of_bounds_that_are_set_alone() -> None:
    def told(**resources: float) -> dict[str, str]:
        objects = render({"pods": {"resources": resources}})
        given = environment(objects, "worker").items()
        return {
            k.removeprefix("KAITOFLOW_POD_"): v for k, v in given if "_CPU_" in k or "RATIO" in k
        }

    assert told() == {"CPU_CORES": "0.5"}
    assert told(cpuCores=2, memoryLimitRatio=1, storageLimitRatio=1.5, cpuLimitRatio=4) == {
        "CPU_CORES": "2",
        "CPU_LIMIT_RATIO": "4",
        "MEMORY_LIMIT_RATIO": "1",
        "STORAGE_LIMIT_RATIO": "1.5",
    }
    with pytest.raises(RuntimeError, match="memoryLimitRatio"):
        told(memoryLimitRatio=0.5)


@pytest.mark.parametrize("component", ["watcher", "worker"])
def test_who_starts_runs_and_who_runs_them_are_told_the_same_namespaces(component: str) -> None:
    named = environment(render({"namespaces": ["a", "b"]}), component)
    assert named["KAITOFLOW_NAMESPACES"] == '["a","b"]'
    everywhere = environment(render({"allNamespaces": True}), component)
    assert everywhere["KAITOFLOW_NAMESPACES"] == "[]"


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
    told = served(VARIANTS[variant]).get("namespaces", [])
    for each in restricted(render(VARIANTS[variant])):
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
    here = [o for o in policies if o["metadata"]["namespace"] in {NAMESPACE, "kube-system"}]
    guarded = [o["spec"]["podSelector"]["matchLabels"] for o in here]
    workloads = servers(objects)
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
        o for o in servers(render(values)) if o["metadata"]["name"].endswith(f"-{component}")
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


def test_where_pools_are_made_the_worker_alone_has_azure_s_identity_by_itself() -> None:
    use, aks = "azure.workload.identity/use", VARIANTS["aks"]
    assert pod_labels(aks, "worker")[use] == "true"
    assert use not in pod_labels(aks, "watcher")
    accounts = {
        o["metadata"]["name"]: o["metadata"].get("annotations", {})
        for o in render(aks)
        if o["kind"] == "ServiceAccount"
    }
    assert accounts["kaitoflow-worker"] == {"azure.workload.identity/client-id": "1-1"}
    assert accounts["kaitoflow-watcher"] == {}


@pytest.mark.parametrize(
    ("component", "values"),
    [
        *((c, {c: {}}) for c in ("watcher", "worker", "prefect", "hooks")),
        ("postgresql", {"database": {"postgresql": {}}}),
    ],
)
def test_every_workload_takes_more_volumes(component: str, values: Object) -> None:
    bundle = {"name": "bundle", "configMap": {"name": "certificates"}}
    mount = {"name": "bundle", "mountPath": "/etc/ssl/more"}
    more = json.dumps({"extraVolumes": [bundle], "extraVolumeMounts": [mount]})
    objects = render(json.loads(json.dumps(values).replace("{}", more)))
    name = "kaitoflow-uninstall" if component == "hooks" else f"kaitoflow-{component}"
    [spec] = [spec for each, spec in pod_specs(objects) if each.startswith(name)]
    assert bundle in spec["volumes"]
    assert mount in spec["containers"][0]["volumeMounts"]


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
    wanted = {"networkPolicy": {"workspaces": {"enabled": True}}, "allNamespaces": True}
    with pytest.raises(RuntimeError, match="name the namespaces in which Workspaces are run"):
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
        worker = policy["spec"]["ingress"][0]["from"][1]
        home = worker["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert home == NAMESPACE
        assert worker["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
        # On any port: those that train together choose them as they begin.
        assert policy["spec"]["ingress"][1] == {
            "from": [{"podSelector": {"matchLabels": MANAGED_BY}}]
        }
        [v4, v6, pods] = policy["spec"]["egress"][0]["to"]
        assert v4["ipBlock"]["except"] == ["169.254.169.254/32"]
        assert v6["ipBlock"]["except"] == ["fd00:ec2::254/128"]
        assert pods == {"namespaceSelector": {}}


def test_workspaces_pods_reach_what_is_named_names_and_each_other_and_nothing_else() -> None:
    [policy] = [
        o
        for o in render(VARIANTS["limited"])
        if o["kind"] == "NetworkPolicy" and o["metadata"]["namespace"] == "team-a"
    ]
    [named, names, each_other] = policy["spec"]["egress"]
    assert named == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
    }
    assert each_other == {"to": [{"podSelector": {"matchLabels": MANAGED_BY}}]}


@each_variant
def test_what_is_rendered_twice_is_the_same(variant: str) -> None:
    """Argo CD compares renderings; what differs each time is never in sync."""
    values = json.dumps(served(VARIANTS[variant]))
    command = ("template", RELEASE, CHART, "--kube-version", "1.36.0", "--values=-")
    assert helm(*command, stdin=values) == helm(*command, stdin=values)


@each_variant
def test_no_secret_is_rendered(variant: str) -> None:
    assert not [o for o in render(VARIANTS[variant]) if o["kind"] == "Secret"]


def made_passwords(values: Object) -> list[str]:
    jobs = hooks(render(values), "passwords")[-1:]
    return [
        word
        for job in jobs
        for word in job["spec"]["template"]["spec"]["containers"][0]["command"][3:]
    ]


def test_the_passwords_that_nobody_has_given_are_made() -> None:
    own = {"existingSecret": "own"}
    login, database = (
        "kaitoflow-prefect-auth/auth-string=kaitoflow",
        "kaitoflow-postgresql/password",
    )
    assert made_passwords({}) == [login, database]
    assert made_passwords({"prefect": {"auth": own}}) == [database]
    assert made_passwords({"database": {"postgresql": own}}) == [login]
    assert made_passwords({"prefect": {"auth": own}, "database": {"postgresql": own}}) == []
    assert made_passwords(VARIANTS["outside-prefect"]) == []


@pytest.mark.parametrize("component", ["passwords", "uninstall"])
def test_a_hook_s_job_is_another_one_when_its_pod_is_and_has_its_rights_before(
    component: str,
) -> None:
    """A Job that is there cannot be changed: kubectl would fail at the next version's."""
    *before, job = hooks(render(), component)
    [*_, other] = hooks(render({"image": {"control": {"tag": "2"}}}), component)
    assert job["metadata"]["name"] != other["metadata"]["name"]
    assert before[0]["kind"] == "ServiceAccount"
    assert {o["kind"] for o in before} == {"ServiceAccount", "Role", "RoleBinding"}


@pytest.mark.parametrize("component", ["passwords", "uninstall"])
def test_what_is_said_of_hooks_reaches_both(component: str) -> None:
    values = {
        "podLabels": {"team": "ml"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
    }
    [*_, job] = hooks(render({"hooks": values}), component)
    template = job["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"] == values["podAnnotations"]
    assert template["spec"]["nodeSelector"] == values["nodeSelector"]
    assert template["spec"]["tolerations"] == values["tolerations"]
