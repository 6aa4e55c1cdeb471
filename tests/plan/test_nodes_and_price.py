"""What a plan says of machines, quota, price, dataset and registry, from what others said."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import (
    AddressForbidden,
    CloudDenied,
    DatasetUnreachable,
    DownloadFailed,
    RegistryDenied,
)
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.aks.quota import Quota, Quotas
from tasks.nodes.held_gpus import GpuHolder
from tasks.plan import cost
from tasks.plan.checks import acceptance, make_plan
from tasks.plan.findings import DatasetSeen, Findings
from tasks.platform.base import World
from tasks.skus.prices import price_table
from tests.builders import tuning_manifest

CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)
MADE = Findings(provisioner="aks", prices=price_table(None))
T4_FAMILY = "Standard NCASv3_T4 Family"


def workspace(
    instance_type: str = "Standard_NC4as_T4_v3",
    preset: str = "phi-4-mini-instruct",
    annotations: Mapping[str, str] | None = None,
    **tuning: Any,
) -> Workspace:
    manifest = tuning_manifest(preset={"name": preset}, **tuning)
    manifest["resource"]["instanceType"] = instance_type
    manifest["metadata"]["annotations"] = dict(annotations or {})
    return parse_workspace(manifest, source="test")


def row(plan: Plan, name: str) -> Check:
    return next(check for check in plan.checks if check.name == name)


def quotas(used: int, limit: int, family: str = T4_FAMILY) -> Findings:
    found = Quota(family=family, used=used, limit=limit)
    key = "".join(family.split()).lower()
    return replace(MADE, quotas=Quotas(location="eastus", by_family={key: found}))


def test_a_machine_that_fits_is_told_with_its_peak_batch_and_number_type() -> None:
    fit = row(make_plan(workspace(), CLUSTER, MADE), "GPU fit")
    assert fit.result != "fail"
    assert "of 14.6 GiB" in fit.detail
    assert "batch" in fit.detail
    assert "float16" in fit.detail  # a T4 has no bfloat16


def test_a_model_that_fits_no_named_machine_is_refused_with_the_cheapest_that_does() -> None:
    asked = workspace(preset="phi-4", method="lora")
    fit = row(make_plan(asked, CLUSTER, MADE), "GPU fit")
    assert (fit.result, fit.reason) == ("fail", "ModelDoesNotFit")
    assert "the cheapest that fits" in fit.fix
    assert "T4" not in fit.fix


def test_nodes_that_are_the_users_own_decide_for_themselves() -> None:
    asked = workspace(preset="llama-3.3-70b-instruct", method="lora")
    fit = row(make_plan(asked, CLUSTER, replace(MADE, provisioner="byo")), "GPU fit")
    assert fit.result == "warn"


def test_an_unknown_machine_is_told_with_near_names() -> None:
    own = replace(MADE, provisioner="byo")
    for name in ("Standard_NC4as_T4_v4", "Standard_D8s_v5", "p4d.24xlarge"):
        assert row(make_plan(workspace(name), CLUSTER, own), "GPU fit").result != "fail"
    fit = row(make_plan(workspace("Standard_NC4as_T4_v4"), CLUSTER, own), "GPU fit")
    assert fit.result == "warn"
    assert "Standard_NC4as_T4_v3" in fit.fix


def test_machines_that_our_images_do_not_run_on_are_not_made() -> None:
    refused = row(make_plan(workspace("Standard_NC6s_v3"), CLUSTER, MADE), "resource")
    assert (refused.result, refused.reason) == ("fail", "ModelDoesNotFit")
    assert "compute capability 7.0" in refused.detail
    assert "Standard_NC4as_T4_v3" in refused.fix


def test_a_machine_that_our_images_run_on_beside_it_is_enough() -> None:
    both = {"kaitoflow.io/instance-types": "Standard_NC4as_T4_v3"}
    plan = make_plan(workspace("Standard_NC6s_v3", annotations=both), CLUSTER, MADE)
    assert not plan.refused
    assert "Standard_NC6s_v3 is retired" in row(plan, "GPU fit").fix


def test_a_person_s_own_old_machine_is_left_to_its_owner() -> None:
    own = replace(MADE, provisioner="byo")
    plan = make_plan(workspace("Standard_NC6s_v3"), CLUSTER, own)
    assert not plan.refused
    assert row(plan, "GPU fit").result == "warn"


@pytest.mark.parametrize(
    ("provisioner", "name", "words"),
    [
        ("aks", "Standard_D8s_v5", "no machine with a GPU is known by that name"),
        ("aks", "Standard_XX", "no machine with a GPU is known by that name"),
        ("aks", "Standard_ND128isr_NG_v9", "no machine with a GPU is known by that name"),
        ("karpenter", "m5.large", "no machine with a GPU is known by that name"),
        ("aks", "p4d.24xlarge", "that is AWS's name, and Azure has none"),
        ("aks", "p9.large", "that is AWS's name, and Azure has none"),
        ("aks", "mine", "; Azure has none of that name"),
    ],
)
def test_a_machine_that_can_never_do_is_not_made(provisioner: str, name: str, words: str) -> None:
    made = replace(MADE, provisioner=provisioner)
    refused = row(make_plan(workspace(name), CLUSTER, made), "resource")
    assert (refused.result, refused.reason) == ("fail", "UnknownInstanceType")
    assert words in refused.detail
    assert ", the cheapest that fits" in refused.fix


BYPASS = {"kaito.sh/bypass-resource-checks": "True"}


def test_a_machine_newer_than_the_catalogue_is_made_for_who_says_that_it_will_do() -> None:
    plan = make_plan(workspace("Standard_ND128isr_NG_v9", annotations=BYPASS), CLUSTER, MADE)
    assert not plan.refused
    told = row(plan, "resource")
    assert (told.result, told.reason) == ("warn", "UnknownInstanceType")
    assert told.detail in acceptance(plan)


def test_a_machine_of_another_cloud_is_made_for_nobody() -> None:
    plan = make_plan(workspace("p4d.24xlarge", annotations=BYPASS), CLUSTER, MADE)
    assert [check.name for check in plan.refused] == ["resource"]


@pytest.mark.parametrize(("gpus", "is_refused"), [("1", True), ("0", False)])
def test_pods_of_the_user_s_own_that_ask_for_gpus_get_no_machine_without(
    gpus: str, *, is_refused: bool
) -> None:
    limits = {"limits": {"nvidia.com/gpu": gpus}}
    container = {"name": "own", "image": "x", "resources": limits}
    pods = parse_workspace(
        {
            "metadata": {"name": "s"},
            "resource": {"instanceType": "Standard_D8s_v5"},
            "inference": {"template": {"spec": {"containers": [container]}}},
        },
        source="test",
    )
    refused = make_plan(pods, CLUSTER, MADE).refused
    assert [check.name for check in refused] == (["resource"] if is_refused else [])


@pytest.mark.parametrize(
    ("provisioner", "name", "preset"),
    [
        ("aks", "Standard_D8s_v5", "smollm2-135m-instruct"),
        ("karpenter", "p4d.24xlarge", "phi-4-mini-instruct"),
        ("byo", "Standard_D8s_v5", "phi-4-mini-instruct"),
    ],
)
def test_a_machine_that_may_do_is_not_refused(provisioner: str, name: str, preset: str) -> None:
    made = replace(MADE, provisioner=provisioner)
    assert not make_plan(workspace(name, preset), CLUSTER, made).refused


def test_a_node_that_is_to_be_made_needs_a_name() -> None:
    refused = make_plan(workspace(""), CLUSTER, quotas(0, 8)).refused
    assert [(check.name, check.reason) for check in refused] == [
        ("resource", "InstanceTypeMissing")
    ]
    assert "resource.instanceType is empty" in refused[0].detail


def served(**resource: Any) -> Workspace:
    preset = resource.pop("preset", "phi-4-mini-instruct")
    named = {"instanceType": "Standard_NC24ads_A100_v4"} | resource
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "served"},
        "resource": named,
        "inference": {"preset": {"name": preset}},
    }
    return parse_workspace(manifest, source="test")


def test_more_nodes_than_a_server_uses_are_refused() -> None:
    refused = make_plan(served(count=2), CLUSTER, MADE).refused
    assert [(check.name, check.reason) for check in refused] == [("resource", "InvalidWorkspace")]
    assert "set it to 1" in refused[0].fix


def on_nodes(count: int, **changes: Any) -> Workspace:
    """A tuning on so many nodes."""
    manifest = tuning_manifest(preset={"name": "phi-4-mini-instruct"})
    manifest["metadata"]["annotations"] = changes.pop("annotations", {"kaito.sh/serve": "false"})
    named = {"instanceType": "Standard_NC48ads_A100_v4", "count": count}
    return parse_workspace(manifest | {"resource": named} | changes, source="test")


def configured(text: str) -> tuple[Workspace, World]:
    """The same with a training_config.yaml."""
    workspace = on_nodes(2)
    assert workspace.tuning
    tuning = workspace.tuning.model_copy(update={"config": "settings"})
    data = {"settings": {"training_config.yaml": text}}
    return workspace.model_copy(update={"tuning": tuning}), replace(CLUSTER, config_maps=data)


def test_a_tuning_on_several_nodes_is_told_with_its_processes_and_memory() -> None:
    told = row(make_plan(on_nodes(3), CLUSTER, MADE), "together")
    assert told.result == "ok"
    assert told.detail.startswith(
        "3 nodes tune together, a pod each with 2 processes: 6 share the rows of a step, each with "
        "the whole model; a pod takes at least 18.0 GiB of its node's memory"
    )
    assert not [
        each for each in make_plan(on_nodes(1), CLUSTER, MADE).checks if each.name == "together"
    ]


def test_several_nodes_cost_as_many_and_take_less_time() -> None:
    one, two = (make_plan(on_nodes(count), CLUSTER, MADE).price for count in (1, 2))
    assert one
    assert two
    assert two.per_hour == 2 * one.per_hour


def test_what_is_served_is_not_tuned_on_several_nodes() -> None:
    refused = make_plan(on_nodes(2, annotations={}), CLUSTER, MADE).refused
    assert [(check.name, check.reason) for check in refused] == [("resource", "InvalidWorkspace")]
    assert 'annotate kaito.sh/serve: "false"' in refused[0].fix


def test_settings_that_nodes_cannot_share_are_refused() -> None:
    packed = "training_config: {TrainingArguments: {packing: true}}"
    workspace, world = configured(packed)
    refused = [c for c in make_plan(workspace, world, MADE).refused if c.name == "resource"]
    assert "rows that are packed" in refused[0].detail
    assert "set count to 1" in refused[0].fix


def test_processes_without_a_row_are_told() -> None:
    few = "training_config: {TrainingArguments: {per_device_train_batch_size: 2}}"
    workspace, world = configured(few)
    told = row(make_plan(workspace, world, MADE), "together")
    assert told.result == "warn"
    assert "a step has 2 rows: 2 will idle" in told.detail


def test_on_one_machine_several_nodes_have_no_effect() -> None:
    here = World(config_maps={}, has_secret=lambda _name: True)
    plan = make_plan(on_nodes(2), here, replace(MADE, provisioner="local"))
    assert "resource.count (one machine is one node)" in row(plan, "words").detail
    assert not [each for each in plan.checks if each.name == "together"]


def test_a_model_that_needs_several_nodes_fits_on_none() -> None:
    large = served(preset="llama-3.3-70b-instruct", count=3)
    fit = row(make_plan(large, CLUSTER, MADE), "GPU fit")
    assert (fit.result, fit.reason) == ("fail", "ModelDoesNotFit")
    assert "a server runs on one node" in fit.detail
    assert "Standard_NC80adis_H100_v5, the cheapest that fits" in fit.fix


@pytest.mark.parametrize(
    ("partition", "asked"),
    [
        ({"mode": "mig", "profile": "3g.40gb"}, "a slice 3g.40gb"),
        ({"mode": "accelerator", "count": 2}, "2 GPUs"),
    ],
)
def test_a_share_of_a_node_s_gpus_is_refused(partition: dict[str, Any], asked: str) -> None:
    refused = make_plan(served(partition=partition), CLUSTER, MADE).refused
    assert [(check.name, check.reason) for check in refused] == [("resource", "InvalidWorkspace")]
    assert f"resource.partition asks for {asked};" in refused[0].detail
    assert "remove partition" in refused[0].fix


def test_a_share_that_is_the_whole_node_is_what_a_pod_gets() -> None:
    whole = served(partition={"mode": "accelerator", "count": 1})
    assert not make_plan(whole, CLUSTER, MADE).refused


def test_on_one_machine_a_share_of_a_node_is_told_and_stops_nothing() -> None:
    here = World(config_maps={}, has_secret=lambda _name: True)
    asked = served(partition={"mode": "mig", "profile": "3g.40gb"}, count=2)
    plan = make_plan(asked, here, replace(MADE, provisioner="local"))
    told = [check for check in plan.checks if check.name == "resource"]
    assert [check.result for check in told] == ["warn", "warn"]
    assert all(check.detail.startswith("on a cluster: ") for check in told)


def test_a_gpu_that_another_holds_is_told_in_the_plan() -> None:
    room = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    ready = {"type": "Ready", "status": "True"}
    node = {
        "metadata": {"name": "gpu-1", "labels": {}},
        "status": {"allocatable": room, "conditions": [ready]},
    }
    holder = GpuHolder(node="gpu-1", namespace="team", pod="web-0", gpus=1)
    own = replace(MADE, provisioner="byo", nodes=[node])
    assert row(make_plan(workspace(), CLUSTER, own), "nodes").result == "ok"
    told = row(make_plan(workspace(), CLUSTER, replace(own, gpu_holders=[holder])), "nodes")
    assert told.result == "warn"
    assert "in use by team/web-0" in told.fix
    queued = workspace()
    queued.metadata.labels["kueue.x-k8s.io/queue-name"] = "team-a"
    plan = make_plan(queued, CLUSTER, replace(own, gpu_holders=[holder]))
    assert row(plan, "nodes").result == "ok"  # whose GPUs make way is the queue's to say
    assert "queue" not in [check.name for check in plan.checks]


def test_a_machine_that_is_made_and_paid_for_while_a_queue_has_no_room_is_warned_of() -> None:
    queued = workspace()
    assert "queue" not in [check.name for check in make_plan(queued, CLUSTER, MADE).checks]
    queued.metadata.labels["kueue.x-k8s.io/queue-name"] = "team-a"
    told = row(make_plan(queued, CLUSTER, MADE), "queue")
    assert (told.result, told.detail.partition("before ")[2]) == (
        "warn",
        "queue team-a has room for its pods",
    )


def test_a_plan_that_does_not_know_the_provisioner_says_so() -> None:
    unknown = replace(MADE, provisioner=None, nodes=[])
    plan = make_plan(workspace(), CLUSTER, unknown)
    assert "plan with its KAITOFLOW_PROVISIONER" in row(plan, "nodes").fix
    assert any("KAITOFLOW_PROVISIONER as it has it" in each for each in plan.unchecked)
    assert not any("as it has it" in e for e in make_plan(workspace(), CLUSTER, MADE).unchecked)


def test_quota_that_is_left_is_told_with_its_family() -> None:
    quota = row(make_plan(workspace(), CLUSTER, quotas(0, 8)), "quota")
    assert quota.result == "ok"
    assert f"8 of 8 cores of {T4_FAMILY} left in eastus, 4 needed" in quota.detail


def test_quota_that_others_use_now_is_a_warning() -> None:
    quota = row(make_plan(workspace(), CLUSTER, quotas(6, 8)), "quota")
    assert (quota.result, quota.reason) == ("warn", "InsufficientQuota")


def test_quota_that_can_never_be_enough_refuses_with_what_to_ask_for() -> None:
    quota = row(make_plan(workspace(), CLUSTER, quotas(0, 2)), "quota")
    assert (quota.result, quota.reason) == ("fail", "InsufficientQuota")
    assert "ask Azure for more cores of this family" in quota.fix


def test_quota_that_cannot_be_read_stops_nobody() -> None:
    denied = CloudDenied(
        "the quotas of eastus were listed",
        "Azure says no",
        "give the role Reader",
    )
    quota = row(make_plan(workspace(), CLUSTER, replace(MADE, quotas=denied)), "quota")
    assert quota.result == "warn"
    assert "Azure says no" in quota.detail


def test_the_price_is_told_for_the_run_and_the_hour_with_its_date() -> None:
    urls = ["https://example.com/a.jsonl"]
    seen = replace(MADE, dataset=DatasetSeen(bytes=(4_000_000,)))
    plan = make_plan(workspace(input={"urls": urls}), CLUSTER, seen)
    assert plan.price is not None
    assert plan.price.per_hour == pytest.approx(0.526)
    assert plan.price.run is not None
    assert plan.price.run[0] < plan.price.run[1]
    price = row(plan, "price")
    assert "$0.53 an hour on-demand" in price.detail
    assert "for the run" in price.detail
    assert "prices of 20" in price.detail


def test_the_rows_of_a_columnar_file_are_larger_than_the_file() -> None:
    seen = replace(MADE, dataset=DatasetSeen(bytes=(2**30,)))
    assert make_plan(workspace(), CLUSTER, seen).dataset_gib == 2
    lines = workspace(input={"urls": ["https://example.com/rows.jsonl"]})
    assert make_plan(lines, CLUSTER, seen).dataset_gib == 1
    assert make_plan(lines, CLUSTER, MADE).dataset_gib is None


def test_a_machine_without_a_price_says_how_to_give_one() -> None:
    asked = workspace(annotations={"kaitoflow.io/capacity-types": "spot"})
    price = row(make_plan(asked, CLUSTER, MADE), "price")
    assert price.result == "warn"
    assert "KAITOFLOW_PRICE_TABLE" in price.fix


def test_a_dataset_that_is_not_there_is_refused_before_a_node_is_made() -> None:
    gone = DatasetUnreachable(
        "x was asked for",
        "the server answered 404",
        "correct the address",
    )
    dataset = row(make_plan(workspace(), CLUSTER, replace(MADE, dataset=gone)), "dataset")
    assert (dataset.result, dataset.reason) == ("fail", "DatasetUnreachable")
    assert dataset.fix == "correct the address"


@pytest.mark.parametrize(("size", "said"), [(20_480, "20 KiB"), (3 * 2**20, "3.0 MiB")])
def test_how_much_there_is_is_told_in_a_unit_that_fits(size: int, said: str) -> None:
    seen = replace(MADE, dataset=DatasetSeen(bytes=(size,)))
    assert f"1 file(s), {said}, " in row(make_plan(workspace(), CLUSTER, seen), "dataset").detail


def test_a_server_that_is_silent_now_is_only_a_warning() -> None:
    silent = DownloadFailed(
        "the dataset was asked",
        "there was no answer",
        "run the plan again",
    )
    dataset = row(make_plan(workspace(), CLUSTER, replace(MADE, dataset=silent)), "dataset")
    assert dataset.result == "warn"


def test_a_web_page_in_place_of_a_file_is_told() -> None:
    page = DatasetSeen(bytes=(10,), web_pages=("https://example.com/page",))
    dataset = row(make_plan(workspace(), CLUSTER, replace(MADE, dataset=page)), "dataset")
    assert dataset.result == "warn"
    assert "behind Raw or Download" in dataset.fix


def test_what_is_cut_off_an_address_is_told() -> None:
    asked = workspace(input={"urls": ["https://example.com/data#1.jsonl"]})
    dataset = row(make_plan(asked, CLUSTER, MADE), "dataset")
    assert dataset.result == "warn"
    assert "#1.jsonl" in dataset.detail
    assert "%23" in dataset.fix


def test_a_password_in_an_address_is_told_and_not_shown() -> None:
    asked = workspace(input={"urls": ["https://user:hidden@example.com/rows.jsonl"]})
    dataset = row(make_plan(asked, CLUSTER, MADE), "dataset")
    assert dataset.result == "warn"
    assert "an address holds a password" in dataset.detail
    assert "hidden" not in str(dataset)


def test_only_a_plan_that_tunes_speaks_of_time() -> None:
    assert row(make_plan(workspace(), CLUSTER, MADE), "time").result == "ok"
    manifest = tuning_manifest("served") | {"inference": {"preset": {"name": "phi-4"}}}
    del manifest["tuning"]
    served = parse_workspace(manifest, source="served")
    assert "time" not in {check.name for check in make_plan(served, CLUSTER, MADE).checks}


def test_a_registry_that_denies_the_push_refuses_the_workspace() -> None:
    denied = RegistryDenied(
        "a push to r was tried",
        "the registry denies it",
        "give the user a role",
    )
    image = row(make_plan(workspace(), CLUSTER, replace(MADE, may_push=denied)), "image")
    assert (image.result, image.reason) == ("fail", "RegistryDenied")


def test_a_registry_inside_the_network_is_left_to_the_pod() -> None:
    inside = AddressForbidden(
        "10.0.0.1 was to be asked",
        "it is private",
        "use a public one",
    )
    image = row(make_plan(workspace(), CLUSTER, replace(MADE, may_push=inside)), "image")
    assert image.result == "warn"
    assert "the pod tries it" in image.fix


def test_a_push_that_was_proved_is_told() -> None:
    image = row(make_plan(workspace(), CLUSTER, replace(MADE, may_push=True)), "image")
    assert image.result == "ok"
    assert "proved by an upload" in image.detail


def test_on_one_machine_what_is_said_of_nodes_stops_nothing() -> None:
    here = World(config_maps={}, has_secret=lambda _name: True)
    plan = make_plan(workspace("Standard_XY"), here, replace(MADE, provisioner="local"))
    assert row(plan, "GPU fit").result == "ok"
    assert row(plan, "GPU fit").detail.startswith("on a cluster: ")
    assert any("--platform kubernetes" in each for each in plan.unchecked)


def test_what_was_not_looked_at_is_told_with_the_reason() -> None:
    silent = DownloadFailed("https://x/a was asked", "there was no answer within 3 s", "try again")
    plan = make_plan(workspace(), CLUSTER, replace(MADE, dataset=silent))
    told = "the dataset's address (https://x/a was asked; there was no answer within 3 s)"
    assert told in plan.unchecked


def test_an_answer_is_not_told_as_a_look_that_was_left_out() -> None:
    gone = DatasetUnreachable("x was asked for", "the server answered 404", "correct the address")
    plan = make_plan(workspace(), CLUSTER, replace(MADE, dataset=gone))
    assert not any("address" in each for each in plan.unchecked)


def test_acceptance_says_what_was_not_checked_and_what_to_mind() -> None:
    silent = DownloadFailed("https://x/a was asked", "there was no answer within 3 s", "try again")
    said = acceptance(make_plan(workspace(), CLUSTER, replace(MADE, dataset=silent)))
    assert said.startswith("no check failed\nnot checked: the dataset's address (https://x/a was")
    assert (
        "\ndataset: 1 file(s); https://x/a was asked; there was no answer within 3 s; try" in said
    )


def test_only_a_plan_without_doubts_says_that_all_checks_passed() -> None:
    fine = Check(name="schema", result="ok", detail="v1beta1")
    assert acceptance(Plan(checks=[fine])) == "all checks passed"


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("kaitoflow.io/bad-rows-tolerance", "lots", "a number from 0 to 1"),
        ("kaitoflow.io/tolerations", "a b", "as kubectl does"),
        ("kaitoflow.io/stoped", "", "write kaitoflow.io/stopped"),
    ],
)
def test_an_annotation_that_means_nothing_is_refused(name: str, value: str, fix: str) -> None:
    refused = make_plan(workspace(annotations={name: value}), CLUSTER, MADE).refused
    assert [(check.name, check.reason) for check in refused] == [("words", "InvalidWorkspace")]
    assert fix in refused[0].fix


def test_words_without_effect_are_told_in_the_plan_and_at_the_acceptance() -> None:
    asked = workspace(annotations={"kaito.sh/node-class-name": "mine"})
    plan = make_plan(asked, CLUSTER, MADE)
    told = row(plan, "words")
    assert told.result == "warn"
    assert "annotation kaito.sh/node-class-name: the installation's provisioner" in told.detail
    assert told.detail in acceptance(plan)


def test_settings_of_the_training_that_are_not_used_are_told() -> None:
    text = "training_config: {TrainingArguments: {fp16: true}}"
    world = replace(CLUSTER, config_maps={"settings": {"training_config.yaml": text}})
    told = row(make_plan(workspace(config="settings"), world, MADE), "words")
    assert "TrainingArguments.fp16 is not used" in told.detail


def test_the_time_of_a_machine_that_is_made_counts_only_where_one_is_made() -> None:
    seen = replace(MADE, dataset=DatasetSeen(bytes=(4_000_000,)))
    made = make_plan(workspace(), CLUSTER, seen).seconds
    own = make_plan(workspace(), CLUSTER, replace(seen, provisioner="byo")).seconds
    assert made
    assert own
    assert (made[0] - own[0], made[1] - own[1]) == (180, 900)


def test_quota_of_just_enough_cores_is_enough() -> None:
    assert row(make_plan(workspace(), CLUSTER, quotas(4, 8)), "quota").result == "ok"


@pytest.mark.parametrize(
    ("shortest_s", "result"), [(24 * 3600 - 1, "ok"), (24 * 3600, "warn"), (25 * 3600, "warn")]
)
def test_only_a_run_that_takes_a_day_at_least_is_warned_of(shortest_s: float, result: str) -> None:
    assert cost.time((shortest_s, 30 * 3600)).result == result


def test_the_price_of_an_hour_is_that_of_all_nodes() -> None:
    own = {"metadata": {"name": "s"}, "inference": {"template": {"spec": {}}}}
    pods = parse_workspace(
        own | {"resource": {"count": 3, "instanceType": "Standard_NC4as_T4_v3"}}, source="test"
    )
    price = make_plan(pods, CLUSTER, MADE).price
    assert price
    assert price.per_hour == pytest.approx(3 * 0.526)


def test_one_gpu_of_a_machine_that_is_not_known_is_no_whole_node() -> None:
    share = {"mode": "accelerator", "count": 1}
    asked = served(partition=share, instanceType="Standard_ND128isr_NG_v9")
    own = replace(MADE, provisioner="byo")
    assert [check.name for check in make_plan(asked, CLUSTER, own).refused] == ["resource"]


@pytest.mark.parametrize(
    ("annotation", "asked", "is_told"),
    [
        ("kaitoflow.io/memory", "1Gi", True),
        ("kaitoflow.io/memory", "64Gi", False),
        ("kaitoflow.io/ephemeral-storage", "2Gi", True),
        ("kaitoflow.io/ephemeral-storage", "64Gi", False),
    ],
)
def test_less_than_the_pods_need_is_told(annotation: str, asked: str, is_told: bool) -> None:
    plan = make_plan(workspace(annotations={annotation: asked}), CLUSTER, MADE)
    told = [check for check in plan.checks if annotation in check.detail]
    assert [(check.name, check.result) for check in told] == [("resource", "warn")] * is_told


@pytest.mark.parametrize("name", ["cpu", "memory", "ephemeral-storage"])
def test_an_amount_that_is_none_is_refused_by_its_annotation(name: str) -> None:
    plan = make_plan(workspace(annotations={f"kaitoflow.io/{name}": "lots"}), CLUSTER, MADE)
    assert any(f"kaitoflow.io/{name}" in check.detail for check in plan.refused)
