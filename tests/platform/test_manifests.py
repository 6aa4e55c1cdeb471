"""What a Workspace's pods are on a cluster, from a Workspace and a pod alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.judge import Judge
from tasks.contract.programs.evaluation import CommandConfig, EvaluationConfig
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.resources import Amount, Resources
from tasks.contract.steps import CANDIDATE, INFERENCE, TAGGING, TUNING
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.base import Container, Pod
from tasks.platform.manifests.config_map import config_map
from tasks.platform.manifests.job import job_of
from tasks.platform.manifests.naming import (
    candidate_config_map_name,
    job_name,
    object_names,
    stateful_set_name,
)
from tasks.platform.manifests.paths import JUDGE_KEY_FILE, PATHS, pod_paths
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.pod_template import CONFIG_DIGEST_ANNOTATION
from tasks.platform.manifests.serving import (
    SERVER_DIGEST_ANNOTATION,
    server_digest,
    services,
    stateful_set,
)
from tasks.platform.manifests.several_nodes import peers_service
from tasks.platform.passed_on import PRIORITY_CLASS_ANNOTATION, QUEUE_LABEL
from tasks.platform.tolerations import TOLERATIONS_ANNOTATION
from tests.builders import tuning_manifest

Object = dict[str, Any]
SETTINGS = PodSettings(image="registry.example.com/pod:1", job_timeout_s=3600)


@dataclass(frozen=True)
class Told:
    """What a toy program is told."""

    text: str = ""


def workspace(
    name: str = "tuned", *, annotations: Any = None, labels: Any = None, **resource: Any
) -> Workspace:
    manifest = tuning_manifest(name)
    manifest["metadata"] |= {"namespace": "team", "uid": "1", "annotations": annotations or {}}
    manifest["metadata"]["labels"] = labels or {}
    manifest["resource"] = resource
    return parse_workspace(manifest, source="test")


def container(name: str, text: str = "") -> Container:
    return Container(name=name, program="toy", config=Told(text))


def tuning(*names: str, **changes: Any) -> Pod:
    chosen = names or ("fetch-weights", "fetch-dataset", "tune", "push-image")
    return Pod(name=TUNING, containers=tuple(map(container, chosen)), **changes)


SERVING = Pod(name=INFERENCE, containers=(container("fetch-weights"), container("serve")))
BROUGHT = Pod(
    name=INFERENCE,
    containers=(),
    template={"metadata": {"labels": {"own": "1"}}, "spec": {"containers": [{"name": "own"}]}},
)


def pod_spec(made: Object) -> Object:
    return dict(made["spec"]["template"]["spec"])


def job_spec(pod: Pod, made_for: Workspace | None = None) -> Object:
    return pod_spec(job_of(made_for or workspace(), pod, SETTINGS))


def containers(spec: Object) -> dict[str, Object]:
    return {each["name"]: each for each in [*spec["initContainers"], *spec["containers"]]}


def test_a_jobs_containers_follow_each_other_and_the_last_one_ends_it() -> None:
    spec = job_spec(tuning())
    assert [each["name"] for each in spec["containers"]] == ["push-image"]
    before = ["fetch-weights", "fetch-dataset", "tune"]
    assert [each["name"] for each in spec["initContainers"]] == before
    assert spec["restartPolicy"] == "Never"


def test_a_job_ends_at_its_deadline() -> None:
    made = job_of(workspace(), tuning(), replace(SETTINGS, job_timeout_s=90.4))
    assert made["spec"]["activeDeadlineSeconds"] == 90


def test_a_job_fails_at_once_where_another_pod_would_fail_too() -> None:
    rules = job_of(workspace(), tuning(), SETTINGS)["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [1, 3, 137]


def test_two_pods_of_a_job_never_push_at_once() -> None:
    assert job_of(workspace(), tuning(), SETTINGS)["spec"]["podReplacementPolicy"] == "Failed"


def test_pods_on_several_nodes_are_one_job_that_is_done_with_its_first_pod() -> None:
    made = job_of(workspace(count=4), tuning(nodes=4), SETTINGS)["spec"]
    assert (made["completionMode"], made["completions"], made["parallelism"]) == ("Indexed", 4, 4)
    assert made["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert made["backoffLimit"] == 8
    one = job_of(workspace(), tuning(), SETTINGS)["spec"]
    assert "completionMode" not in one
    assert "subdomain" not in one["template"]["spec"]


def test_pods_on_several_nodes_find_the_first_before_it_is_ready() -> None:
    on_two = workspace(count=2, labelSelector={"matchLabels": {"apps": "own"}})
    spec = job_spec(tuning(nodes=2), on_two)
    told = {each["name"]: each for each in containers(spec)["tune"]["env"]}
    assert told["MASTER_ADDR"]["value"] == "tuned-tune-1-0.tuned-tune-pods.team.svc"
    assert told["MASTER_PORT"]["value"] == "29500"
    assert "MASTER_ADDR" not in {each["name"] for each in containers(spec)["fetch-weights"]["env"]}
    service = peers_service(on_two)
    assert spec["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"
    labels = job_of(on_two, tuning(nodes=2), SETTINGS)["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert ("Service", "tuned-tune-pods") in object_names(on_two)
    assert ("Service", "tuned-tune-pods") not in object_names(workspace())


def test_no_two_pods_of_a_job_are_on_one_node_and_each_is_where_the_workspace_says() -> None:
    on_two = workspace(count=2, labelSelector={"matchLabels": {"apps": "own"}})
    affinity = job_spec(tuning(nodes=2), on_two)["affinity"]
    assert (
        affinity["nodeAffinity"]
        == job_spec(tuning(), workspace(labelSelector={"matchLabels": {"apps": "own"}}))[
            "affinity"
        ]["nodeAffinity"]
    )
    [apart] = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"


def test_a_jobs_name_leaves_room_for_the_number_of_its_pods() -> None:
    long = "a" * 63
    assert len(job_name(workspace(long, count=2))) <= 63 - len("-999")
    assert len(job_name(workspace(long))) == 63


def test_what_only_tells_a_registry_something_needs_no_node_that_is_made() -> None:
    pod = Pod(name=TAGGING, containers=(container("tag-image"),))
    made = job_of(workspace(), pod, replace(SETTINGS, are_nodes_made=True))
    assert made["metadata"]["name"] == job_name(workspace(), TAGGING) != job_name(workspace())
    assert "affinity" not in pod_spec(made)
    chosen = workspace(labelSelector={"matchLabels": {"apps": "own"}})
    assert "affinity" in job_spec(pod, chosen)  # the user's own nodes are the user's choice


@pytest.mark.parametrize(
    "spec",
    [job_spec(tuning()), pod_spec(stateful_set(workspace(), SERVING, SETTINGS))],
    ids=["tuning", "serving"],
)
def test_a_pod_of_ours_has_no_rights(spec: Object) -> None:
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for each in containers(spec).values():
        assert each["image"] == SETTINGS.image
        context = each["securityContext"]
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (
            True,
            False,
        )
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_has_as_long_to_end_as_it_takes() -> None:
    assert job_spec(tuning(grace_s=92.3))["terminationGracePeriodSeconds"] == 93
    served = stateful_set(workspace(), replace(SERVING, grace_s=45), SETTINGS)
    assert pod_spec(served)["terminationGracePeriodSeconds"] == 45


def test_a_pod_template_keeps_its_own_time_to_end_and_its_labels() -> None:
    made = stateful_set(workspace(), BROUGHT, SETTINGS)
    assert "terminationGracePeriodSeconds" not in pod_spec(made)
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels["own"] == "1"
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_pod_template_is_run_on_as_many_nodes_as_the_workspace_counts() -> None:
    manifest = tuning_manifest()
    manifest["resource"] = {"count": 2}
    manifest["inference"] = {"template": dict(BROUGHT.template or {})}
    del manifest["tuning"]
    two = parse_workspace(manifest, source="test")
    assert stateful_set(two, BROUGHT, SETTINGS)["spec"]["replicas"] == 2
    assert stateful_set(workspace(), SERVING, SETTINGS)["spec"]["replicas"] == 1


def test_the_hubs_token_reaches_the_weights_program_alone_and_is_never_a_file() -> None:
    spec = job_spec(tuning(hub_secret="hub", secrets=("push",)))
    told = {name: {v["name"] for v in c["env"]} for name, c in containers(spec).items()}
    assert [name for name, names in told.items() if "HF_TOKEN" in names] == ["fetch-weights"]
    assert [v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v] == ["push"]


def test_secrets_of_like_names_have_volumes_of_their_own() -> None:
    long = "s" * 70
    spec = job_spec(tuning(secrets=("push.a", "push-a", "push.a", f"{long}.a", f"{long}-a")))
    volumes = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    assert [*volumes.values()] == ["push.a", "push-a", f"{long}.a", f"{long}-a"]
    assert all(len(name) <= 63 and "." not in name for name in volumes)
    for each in containers(spec).values():
        mounted = {m["name"]: m["mountPath"] for m in each["volumeMounts"]}
        assert {name: mounted[name] for name in volumes} == {
            name: f"/mnt/secrets/{secret}" for name, secret in volumes.items()
        }


def test_adapters_of_like_names_have_volumes_of_their_own() -> None:
    names = ["a", "a-b", "a-b-c", *(f"{'n' * 62}{end}" for end in "ab")]
    kept: dict[Path, Object] = {Path("/mnt/adapter") / name: {"emptyDir": {}} for name in names}
    spec = job_spec(tuning(volumes=kept, secrets=("adapter-a", "a")))
    volumes = [each["name"] for each in spec["volumes"]]
    assert len(volumes) == len(set(volumes))
    assert all(len(name) <= 63 for name in volumes)


def test_every_mount_has_its_volume_once() -> None:
    volume = {Path("/mnt/results"): {"persistentVolumeClaim": {"claimName": "kept"}}}
    spec = job_spec(tuning(secrets=("push",), volumes=volume))
    names = [each["name"] for each in spec["volumes"]]
    assert len(names) == len(set(names))
    for each in containers(spec).values():
        assert [m["name"] for m in each["volumeMounts"]] == names
    [kept] = [v for v in spec["volumes"] if "persistentVolumeClaim" in v]
    assert kept["persistentVolumeClaim"] == {"claimName": "kept"}


def test_gpus_are_asked_for_by_training_and_serving_alone() -> None:
    def asking(spec: Object) -> dict[str, Object]:
        found = containers(spec)
        return {n: c["resources"]["limits"] for n, c in found.items() if c["resources"]["limits"]}

    two = {"nvidia.com/gpu": "2"}
    assert asking(job_spec(tuning(gpus=2))) == {"tune": two}
    served = stateful_set(workspace(), replace(SERVING, gpus=2), SETTINGS)
    assert asking(pod_spec(served)) == {"serve": two}
    assert asking(job_spec(tuning())) == {}
    candidate = replace(tuning("tune", "push-image", "measure", gpus=2), name=CANDIDATE)
    assert asking(job_spec(candidate)) == {"tune": two, "measure": two}


def test_an_allocator_that_leaves_fewer_holes_is_an_installations_to_take_back() -> None:
    name, own = "PYTORCH_ALLOC_CONF", "backend:native"
    pod = tuning("fetch-weights", "tune", gpus=1)
    job = job_of(workspace(), pod, replace(SETTINGS, environment=((name, own),)))
    found = containers(pod_spec(job))
    values = [each["value"] for each in found["tune"]["env"] if each["name"] == name]
    assert values == ["expandable_segments:True", own]  # Kubernetes takes the last
    assert [each["value"] for each in found["fetch-weights"]["env"] if each["name"] == name] == [
        own
    ]


def test_every_container_asks_for_what_the_pod_is_given_and_may_take_no_more() -> None:
    given = Resources(
        cpu_cores=Amount(0.5), memory_gib=Amount(1.5, 4), disk_gib=Amount(3.0001, 100)
    )
    spec = job_spec(tuning(gpus=1, resources=given))
    requests = {"cpu": "500m", "memory": "1536Mi", "ephemeral-storage": "3073Mi"}
    limits = {"memory": "4096Mi", "ephemeral-storage": "102400Mi"}
    for name, each in containers(spec).items():
        gpu = {"nvidia.com/gpu": "1"} if name == "tune" else {}
        assert each["resources"] == {"requests": requests, "limits": limits | gpu}


def test_what_an_installation_says_reaches_every_container() -> None:
    settings = replace(
        SETTINGS, environment=(("HF_ENDPOINT", "https://hub"),), image_pull_secrets=("pull",)
    )
    spec = pod_spec(job_of(workspace(), tuning(), settings))
    for each in containers(spec).values():
        assert {"name": "HF_ENDPOINT", "value": "https://hub"} in each["env"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert "imagePullSecrets" not in job_spec(tuning())


def test_a_candidate_has_objects_of_its_own_beside_those_of_its_generation() -> None:
    candidate = replace(tuning("tune", "push-image", "measure"), name=CANDIDATE, candidate=3)
    made, ordinary = (job_of(workspace(), pod, SETTINGS) for pod in (candidate, tuning()))
    assert made["metadata"]["name"] == "tuned-tune-1-c3"
    assert made["metadata"]["ownerReferences"] == ordinary["metadata"]["ownerReferences"]
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert (labels["kaitoflow.io/pod"], labels["kaitoflow.io/candidate"]) == ("candidate", "3")
    told = config_map(workspace(), candidate)["metadata"]["name"]
    assert told == candidate_config_map_name(workspace(), 3) == "tuned-candidate-1-c3"
    assert {"configMap": {"name": told}}.items() <= pod_spec(made)["volumes"][0].items()


def test_pods_that_learned_of_a_new_text_while_they_run_stay() -> None:
    other = replace(SERVING, containers=(container("serve", "more"),))
    before = stateful_set(workspace(), SERVING, SETTINGS)
    told = before["spec"]["template"]["metadata"]["annotations"][CONFIG_DIGEST_ANNOTATION]
    after = stateful_set(workspace(), other, SETTINGS, told=told)
    annotations = after["spec"]["template"]["metadata"]["annotations"]
    assert annotations == before["spec"]["template"]["metadata"]["annotations"]
    digest = after["metadata"]["annotations"][SERVER_DIGEST_ANNOTATION]
    assert digest == server_digest(workspace(), other, SETTINGS)


def test_another_text_of_what_a_server_is_told_makes_another_pod() -> None:
    other = replace(SERVING, containers=(container("serve", "more"),))
    made = [stateful_set(workspace(), pod, SETTINGS) for pod in (SERVING, other)]
    one, two = (each["spec"]["template"]["metadata"]["annotations"] for each in made)
    assert one != two


def test_what_containers_are_told_lies_in_a_file_each() -> None:
    told = config_map(workspace(), tuning("tune", files={"training_config.yaml": "x"}))["data"]
    assert told.keys() == {"tune.json", "training_config.yaml"}


def test_pods_run_on_nodes_that_the_selector_names_without_kaitos_own_labels() -> None:
    selector = {
        "matchLabels": {"apps": "a", "kaito.sh/workspace": "tuned"},
        "matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}],
    }
    spec = job_spec(tuning(), workspace(labelSelector=selector))
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    [term] = required["nodeSelectorTerms"]
    assert [each["key"] for each in term["matchExpressions"]] == ["apps", "zone"]
    assert "affinity" not in job_spec(tuning())


@pytest.mark.parametrize(
    ("annotation", "kind"), [({}, "ClusterIP"), ({"kaito.sh/enablelb": "True"}, "LoadBalancer")]
)
def test_a_load_balancer_is_made_when_it_is_asked_for(annotation: Object, kind: str) -> None:
    public, headless = services(workspace(annotations=annotation), SERVING)
    assert (public["spec"]["type"], public["metadata"]["name"]) == (kind, "tuned")
    assert headless["spec"]["clusterIP"] == "None"
    selector = stateful_set(workspace(), SERVING, SETTINGS)["spec"]["selector"]["matchLabels"]
    assert public["spec"]["selector"] == headless["spec"]["selector"] == selector


def test_names_that_are_too_long_are_cut_and_stay_apart() -> None:
    names = [f"{'n' * 62}{end}" for end in "ab"]
    for name_of, limit in ((job_name, 63), (stateful_set_name, 52)):
        made = {name_of(workspace(name)) for name in names}
        assert len(made) == 2
        assert max(map(len, made)) <= limit


def test_a_dataset_that_is_mounted_is_prepared_beside_its_volume() -> None:
    manifest = tuning_manifest(input={"image": "registry.example.com/data:1"})
    paths = pod_paths(parse_workspace(manifest, source="test"))
    assert paths.data_dir != paths.source_dir
    assert pod_paths(workspace()).data_dir == pod_paths(workspace()).source_dir


ASKING = {"kaitoflow.io/priority-class": "high", "kaitoflow.io/tolerations": "team=ml:NoSchedule"}
OWN = {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}


def test_a_priority_class_and_tolerations_that_are_asked_for_reach_the_pods() -> None:
    asking = workspace(annotations=ASKING)
    for spec in (job_spec(tuning(), asking), pod_spec(stateful_set(asking, SERVING, SETTINGS))):
        assert spec["priorityClassName"] == "high"
        assert OWN in spec["tolerations"]
    assert "priorityClassName" not in job_spec(tuning())
    assert OWN not in job_spec(tuning())["tolerations"]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "high"), ({"priorityClassName": "low"}, "low")]
)
def test_a_pod_templates_own_priority_class_goes_before_the_annotation(
    given: Object, expected: str
) -> None:
    brought = replace(BROUGHT, template={"spec": {"containers": []} | given})
    spec = pod_spec(stateful_set(workspace(annotations=ASKING), brought, SETTINGS))
    assert spec["priorityClassName"] == expected
    assert OWN in spec["tolerations"]


def test_what_a_workspace_hands_on_goes_before_the_installations_and_not_before_ours() -> None:
    of_installation = replace(
        SETTINGS,
        labels=(("team", "all"), ("kept", "1")),
        annotations=(("note", "all"),),
        priority_class="low",
        runtime_class="runc",
        tolerations=({"key": "own", "operator": "Exists"},),
    )
    asking = workspace(
        annotations={
            "kaitoflow.io/runtime-class": "nvidia",
            "kaitoflow.io/pod-labels": "team=ml, kaitoflow.io/pod=mine",
            "kaitoflow.io/pod-annotations": "note=mine",
        }
    )
    for template in (
        job_of(asking, tuning(), of_installation)["spec"]["template"],
        stateful_set(asking, SERVING, of_installation)["spec"]["template"],
        stateful_set(asking, BROUGHT, of_installation)["spec"]["template"],
    ):
        labels, spec = template["metadata"]["labels"], template["spec"]
        assert (labels["team"], labels["kept"]) == ("ml", "1")
        assert labels["kaitoflow.io/pod"] in {TUNING, INFERENCE}
        assert template["metadata"]["annotations"]["note"] == "mine"
        assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "low")
        assert {"key": "own", "operator": "Exists"} in spec["tolerations"]


def test_what_makes_pods_stands_in_the_queue_that_the_workspace_names() -> None:
    queued = workspace(labels={QUEUE_LABEL: "gpus", "kueue.x-k8s.io/priority-class": "high"})
    for made in (job_of(queued, tuning(), SETTINGS), stateful_set(queued, SERVING, SETTINGS)):
        labels = made["metadata"]["labels"]
        assert labels[QUEUE_LABEL] == "gpus"
        assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert QUEUE_LABEL not in job_of(workspace(), tuning(), SETTINGS)["metadata"]["labels"]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("pod-labels", "team"),
        ("pod-labels", "a b=c"),
        ("pod-labels", "team=a b"),
        ("pod-annotations", "=x"),
    ],
)
def test_what_is_no_label_is_refused(annotation: str, text: str) -> None:
    asking = workspace(annotations={f"kaitoflow.io/{annotation}": text})
    with pytest.raises(InvalidWorkspace, match="write it as kubectl does"):
        job_of(asking, tuning(), SETTINGS)


def test_an_installations_volumes_are_mounted_in_every_container_of_ours() -> None:
    bundle = {"name": "bundle", "configMap": {"name": "certificates"}}
    mount = {"name": "bundle", "mountPath": "/etc/ssl/more"}
    settings = replace(SETTINGS, volumes=(bundle,), mounts=(mount,))
    for made in (
        job_of(workspace(), tuning(), settings),
        stateful_set(workspace(), SERVING, settings),
    ):
        spec = made["spec"]["template"]["spec"]
        assert bundle in spec["volumes"]
        ours = [*spec.get("initContainers", []), *spec["containers"]]
        assert all(mount in container["volumeMounts"] for container in ours)


def test_an_installations_labels_and_annotations_never_hide_those_of_a_pod() -> None:
    chosen = (("team", "ml"), ("kaito.sh/workspace", "other"), ("own", "2"))
    settings = replace(SETTINGS, labels=chosen, annotations=(("sidecar", "no"),))
    for made in (
        job_of(workspace(), tuning(), settings),
        stateful_set(workspace(), SERVING, settings),
        stateful_set(workspace(), BROUGHT, settings),
    ):
        metadata = made["spec"]["template"]["metadata"]
        assert metadata["annotations"]["sidecar"] == "no"
        assert (metadata["labels"]["team"], metadata["labels"]["kaito.sh/workspace"]) == (
            "ml",
            "tuned",
        )
    assert metadata["labels"]["own"] == "1"


def test_every_program_tells_the_pods_uid_and_the_pod_says_so() -> None:
    for made in (
        job_of(workspace(), tuning(), SETTINGS),
        stateful_set(workspace(), SERVING, SETTINGS),
    ):
        template = made["spec"]["template"]
        assert template["metadata"]["annotations"]["kaitoflow.io/event-nonce"] == "uid"
        for each in containers(template["spec"]).values():
            nonce = next(e for e in each["env"] if e["name"] == "KAITOFLOW_EVENT_NONCE")
            assert nonce["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


@pytest.mark.parametrize("pod", [SERVING, BROUGHT], ids=["preset", "template"])
def test_a_generation_that_changes_nothing_of_the_server_has_its_digest(pod: Pod) -> None:
    labelled = workspace(annotations={"kaito.sh/enablelb": "True"}, preferredNodes=["a"])
    digests = {
        server_digest(made_for, pod, SETTINGS)
        for made_for in (workspace(), workspace().of_generation(7), labelled)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "annotations", [{TOLERATIONS_ANNOTATION: "team=ml"}, {PRIORITY_CLASS_ANNOTATION: "high"}]
)
def test_what_reaches_the_server_s_pod_changes_its_digest(annotations: Object) -> None:
    changed = server_digest(workspace(annotations=annotations), SERVING, SETTINGS)
    assert changed != server_digest(workspace(), SERVING, SETTINGS)


def test_what_the_server_is_told_and_its_image_change_its_digest() -> None:
    told = replace(SERVING, containers=(container("fetch-weights"), container("serve", "other")))
    upgraded = replace(SETTINGS, image="registry.example.com/pod:2")
    made = [
        server_digest(workspace(), SERVING, SETTINGS),
        server_digest(workspace(), told, SETTINGS),
        server_digest(workspace(), SERVING, upgraded),
    ]
    assert len(set(made)) == 3


def test_a_stateful_set_tells_the_digest_of_its_pods() -> None:
    made = stateful_set(workspace(), SERVING, SETTINGS)
    told = made["metadata"]["annotations"][SERVER_DIGEST_ANNOTATION]
    assert told == server_digest(workspace(), SERVING, SETTINGS)


def test_an_admin_key_may_come_and_go_while_the_server_serves_and_is_the_servers_alone() -> None:
    spec = pod_spec(stateful_set(workspace(), SERVING, SETTINGS))
    volume = next(each for each in spec["volumes"] if each["name"] == "admin-key")
    assert volume["secret"]["secretName"] == "tuned-admin-key"
    assert volume["secret"]["optional"] is True
    has_key = {
        name: any(mount["name"] == "admin-key" for mount in each["volumeMounts"])
        for name, each in containers(spec).items()
    }
    assert has_key == {"fetch-weights": False, "serve": True}
    assert "admin-key" not in str(job_spec(tuning()))


def test_a_judge_s_key_is_mounted_where_its_answers_are_measured() -> None:
    asked = EvaluationConfig(
        weights_dir=Path("/w"),
        rows_file=Path("/r"),
        candidate=Path("/c"),
        method="lora",
        judge=Judge(url="https://judge.example.com/v1", model="strict-7b"),
        judge_key_file=JUDGE_KEY_FILE,
    )
    pod = tuning()
    measure = Container(name="measure", program="tasks.evaluation.pod", config=asked)
    spec = job_spec(replace(pod, containers=(*pod.containers, measure)))
    volume = next(each for each in spec["volumes"] if each["name"] == "judge-key")
    assert volume["secret"]["secretName"] == "tuned-judge-key"
    assert volume["secret"]["optional"] is True
    who = [
        name
        for name, each in containers(spec).items()
        if any(mount["mountPath"] == str(JUDGE_KEY_FILE.parent) for mount in each["volumeMounts"])
    ]
    assert who == ["measure"]
    assert "judge-key" not in str(job_spec(pod))


def scoring(gpus: int = 0, **annotations: str) -> tuple[Workspace, Pod]:
    """A candidate's pod whose last container is a user's own."""
    command = CommandConfig(
        image="ghcr.io/example/score:1",
        words=("score", "$(HOME)"),
        environment=(("KAITOFLOW_GATE_CANDIDATE", "/mnt/results/adapter"),),
    )
    ours = tuning("tune", "push-image", "measure", gpus=gpus, secrets=("push",))
    score = Container(name="score", program="tasks.evaluation.pod.command", config=command)
    pod = replace(ours, name=CANDIDATE, candidate=3, containers=(*ours.containers, score))
    return workspace(annotations=annotations), pod


def test_a_command_of_a_user_s_own_has_its_image_and_reads_what_was_made_alone() -> None:
    given, pod = scoring(gpus=2)
    spec = pod_spec(job_of(given, pod, replace(SETTINGS, environment=(("HF_ENDPOINT", "hub"),))))
    score = containers(spec)["score"]
    assert score["image"] == "ghcr.io/example/score:1"
    assert (score["command"], "args" in score) == (["score", "$$(HOME)"], False)
    assert {each["name"]: each["value"] for each in score["env"]} == {
        "HF_ENDPOINT": "hub",
        "HOME": "/tmp",
        "KAITOFLOW_GATE_CANDIDATE": "/mnt/results/adapter",
    }
    assert score["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert score["securityContext"] == containers(spec)["tune"]["securityContext"]
    reads = {each["mountPath"] for each in score["volumeMounts"] if each.get("readOnly")}
    writes = {each["mountPath"]: each["name"] for each in score["volumeMounts"]}
    assert reads == {"/workspace/weights", "/mnt/results"}
    assert writes.keys() - reads == {"/tmp", "/dev/shm"}
    own = [name for name, each in containers(spec).items() if "command-tmp" in str(each)]
    assert own == ["score"]


def test_an_image_of_a_user_s_own_is_pulled_with_the_login_of_the_adapters() -> None:
    given, pod = scoring()
    assert given.push_secret == "push"
    settings = replace(SETTINGS, image_pull_secrets=("pull",))
    spec = pod_spec(job_of(given, pod, settings))
    assert spec["imagePullSecrets"] == [{"name": "pull"}, {"name": "push"}]
    assert "imagePullSecrets" not in job_spec(tuning())


def test_a_server_comes_back_without_a_login_and_nothing_is_tuned_without_one() -> None:
    def optional(made: Object) -> list[Any]:
        volumes = pod_spec(made)["volumes"]
        return [v["secret"].get("optional") for v in volumes if v["name"] == "secret-push"]

    assert optional(stateful_set(workspace(), replace(SERVING, secrets=("push",)), SETTINGS)) == [
        True
    ]
    assert optional(job_of(workspace(), tuning(secrets=("push",)), SETTINGS)) == [None]


def test_a_command_that_fails_has_nothing_trained_again() -> None:
    given, pod = scoring()
    rules = job_of(given, pod, SETTINGS)["spec"]["podFailurePolicy"]["rules"]
    assert rules[-1] == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "score", "operator": "NotIn", "values": [0]},
    }
    assert len(job_of(given, tuning(), SETTINGS)["spec"]["podFailurePolicy"]["rules"]) == 2


def test_users_keys_are_mounted_where_the_server_asks_for_them() -> None:
    spec = pod_spec(stateful_set(workspace(), SERVING, SETTINGS))
    assert "user-keys" not in str(spec)
    *before, server = SERVING.containers
    config = ServerConfig(
        weights_dir=Path("/w"), served_model_name="toy", user_keys_file=PATHS["user_keys_file"]
    )
    pod = replace(SERVING, containers=(*before, replace(server, config=config)))
    spec = pod_spec(stateful_set(workspace(), pod, SETTINGS))
    volume = next(each for each in spec["volumes"] if each["name"] == "user-keys")
    assert volume["secret"]["secretName"] == "tuned-user-keys"
    assert volume["secret"]["items"] == [{"key": "keys", "path": "keys"}]
    (mount,) = [
        one for one in containers(spec)["serve"]["volumeMounts"] if one["name"] == "user-keys"
    ]
    assert mount["mountPath"] == "/mnt/users"


def test_where_vllm_serves_its_image_runs_all_of_the_pod() -> None:
    settings = replace(SETTINGS, vllm_image="registry.example.com/vllm:1")
    pod = replace(SERVING, has_vllm=True, gpus=2)
    spec = pod_spec(stateful_set(workspace(), pod, settings))
    assert {each["image"] for each in containers(spec).values()} == {"registry.example.com/vllm:1"}
    server = containers(spec)["serve"]
    assert server["livenessProbe"]["httpGet"]["path"] == "/live"
    assert server["readinessProbe"]["httpGet"]["path"] == "/health"
    assert {"name": "dshm", "mountPath": "/dev/shm"} in server["volumeMounts"]
    assert {"name": "dshm", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    # Blocks that grow in place cannot be shared between GPUs.
    assert "PYTORCH_ALLOC_CONF" not in str(server["env"])


def test_where_it_does_not_the_pods_image_does() -> None:
    server = containers(pod_spec(stateful_set(workspace(), SERVING, SETTINGS)))["serve"]
    assert server["image"] == SETTINGS.image
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"


def test_a_server_goes_on_answering_until_it_is_known_that_it_goes() -> None:
    made = pod_spec(stateful_set(workspace(), replace(SERVING, grace_s=30), SETTINGS))
    waits_s = containers(made)["serve"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < waits_s < made["terminationGracePeriodSeconds"]
    assert "lifecycle" not in containers(made)["fetch-weights"]
