"""What can be known before anything is made or downloaded: one check a line, each with its fix.

Nothing here writes. The command line uses it without Prefect, the run's first step with it.
"""

import os
import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.artifacts import Check, Node, Plan
from tasks.config_map import config_map_text
from tasks.errors import (
    DatasetUnreachable,
    DiskFull,
    InvalidWorkspace,
    KaitoflowError,
    ModelDoesNotFit,
    PortInUse,
    Refused,
    SecretNotFound,
)
from tasks.estimate import (
    batch_that_fits,
    cpu_operations_per_s,
    duration,
    serving_memory_gib,
    tuning_memory_gib,
    tuning_seconds,
)
from tasks.image.pod.reference import parse_reference
from tasks.platform.base import World
from tasks.presets import ModelShape, Preset, find_preset
from tasks.tuning.pod.training_config import TrainingConfig, parse_training_config
from tasks.workspace import DataSource, Workspace

_GIB = 2**30
# A token of English text is about four bytes; columnar files are about half the size of their text.
_BYTES_PER_TOKEN = 4.0
_PARQUET_SHRINKS = 2.0
_SERVED_CONTEXT_TOKENS = 4096
# Loading libraries and weights, the report, the push and the server's start, on two cores.
_FIXED_SECONDS = (25.0, 90.0)
_SLOW_SECONDS = 24 * 3600
_DISK_SPARE_GIB = 1.0
_TIME_BAND = (0.7, 2.0)


def make_plan(workspace: Workspace, world: World) -> Plan:
    """Every check's verdict, with the memory and time that the run is expected to take."""
    checks = [_schema(workspace), _check("base model", lambda: _base_model(workspace, world))]
    preset = _preset_or_none(workspace)
    config = _config_or_none(workspace, world)
    if workspace.tuning:
        checks.append(_check("parameters", lambda: _parameters(workspace, world)))
        checks.append(_check("dataset", lambda: _dataset(workspace, world)))
        checks.append(_check("image", lambda: _image(workspace, world)))
    if world.port is not None:
        port = world.port
        checks.append(_check("port", lambda: _port(world, port)))
    if workspace.secret_names:
        checks.append(_check("secrets", lambda: _secrets(workspace, world)))
    if world.home:
        home = world.home
        checks.append(_check("disk", lambda: _disk(preset, home)))
    available_gib = world.node.memory_gib if world.node else None
    memory_gib = (
        _memory_gib(workspace, preset, config, available_gib=available_gib) if preset else None
    )
    checks.append(_check("memory", lambda: _memory(memory_gib, world)))
    seconds = _seconds(workspace, preset, config, world.node) if preset else None
    checks.append(_time(seconds))
    return Plan(checks=checks, memory_gib=memory_gib, seconds=seconds)


def _check(name: str, look: Callable[[], Check | str]) -> Check:
    """A check whose refusal is a typed error and whose success is a line of detail."""
    try:
        said = look()
    except KaitoflowError as error:
        found, _, fix = str(error).rpartition("; ")
        return Check(name=name, result="fail", detail=found, fix=fix, reason=error.reason)
    return said if isinstance(said, Check) else Check(name=name, result="ok", detail=said)


def _schema(workspace: Workspace) -> Check:
    purpose = f"tuning by {workspace.tuning.method}" if workspace.tuning else "inference"
    return Check(name="schema", result="ok", detail=f"{workspace.api_version}, {purpose}")


def _base_model(workspace: Workspace, world: World) -> Check | str:
    if not workspace.preset and world.is_cluster:
        return "a pod of your own image (inference.template)"
    if not workspace.preset:
        raise InvalidWorkspace(
            "inference.template asks for a pod of your own image; this platform serves presets; "
            "apply it to a cluster"
        )
    preset = find_preset(workspace.preset.name)
    size = f", {preset.parameters / 1e6:,.0f}M parameters" if preset.parameters else ""
    licence = f", licence {preset.licence}" if preset.licence else ""
    detail = f"{preset.model}@{preset.revision}{size}{licence}"
    if not preset.gated or _has_token(workspace, world):
        return detail
    token = (
        "name a Secret with HF_TOKEN in presetOptions.modelAccessSecret"
        if world.is_cluster
        else "set HF_TOKEN"
    )
    return Check(
        name="base model",
        result="warn",
        detail=f"{detail}, gated",
        fix=f"accept its licence at https://huggingface.co/{preset.model} and {token}",
    )


def _has_token(workspace: Workspace, world: World) -> bool:
    if not world.is_cluster:
        return bool(os.environ.get("HF_TOKEN"))
    assert workspace.preset
    return bool(workspace.preset.preset_options.model_access_secret)


def _preset_or_none(workspace: Workspace) -> Preset | None:
    try:
        return find_preset(workspace.preset.name) if workspace.preset else None
    except Refused:
        return None


def _training_config(workspace: Workspace, world: World) -> TrainingConfig | None:
    if not workspace.tuning:
        return None
    name = workspace.tuning.config
    text = config_map_text(world.config_maps.get(name), name) if name else None
    return parse_training_config(text, method=workspace.tuning.method)


def _config_or_none(workspace: Workspace, world: World) -> TrainingConfig | None:
    try:
        return _training_config(workspace, world)
    except Refused:
        return None


def _parameters(workspace: Workspace, world: World) -> str:
    config = _training_config(workspace, world)
    assert config
    assert workspace.tuning
    source = f"ConfigMap {workspace.tuning.config}" if workspace.tuning.config else "defaults"
    return f"{source}: {config.summary}"


def _dataset(workspace: Workspace, world: World) -> str:
    assert workspace.tuning
    source = workspace.tuning.input
    if world.is_cluster:
        return _cluster_dataset(source)
    if not source.urls:
        kind = "image" if source.image else "volumeSource"
        raise InvalidWorkspace(
            f"tuning.input.{kind} asks for files from a cluster; "
            "give tuning.input.urls (http, https or file:) on the local platform"
        )
    missing = [url for url in source.urls if _is_file(url) and not _path(url).is_file()]
    if missing:
        raise DatasetUnreachable(
            f"{missing[0]} was asked for; there is no such file; "
            "correct the path (a relative one counts from the Workspace's file)"
        )
    return f"{len(source.urls)} file(s), verified before training"


def _cluster_dataset(source: DataSource) -> str:
    if source.image:
        return f"{parse_reference(source.image)}, verified before training"
    if not source.urls:
        return "a volume, verified before training"
    here = [url for url in source.urls if not url.startswith(("http://", "https://"))]
    if here:
        raise DatasetUnreachable(
            f"{here[0]} was asked for; a pod cannot read files of your machine; "
            "give an http(s) URL, or an image or a volumeSource"
        )
    return f"{len(source.urls)} file(s), verified before training"


def _image(workspace: Workspace, world: World) -> str:
    assert workspace.tuning
    output = workspace.tuning.output
    if not output.image and world.is_cluster:
        return "kept in the volume (output.volumeSource)"
    if not output.image:
        raise InvalidWorkspace(
            "tuning.output.volumeSource asks for a volume of a cluster; "
            "give tuning.output.image, which the local platform keeps on disk"
        )
    reference = parse_reference(output.image)
    if not world.push:
        return f"{reference} (kept on disk; --push sends it to the registry)"
    return f"{reference}, pushed with {output.image_push_secret}"


def _secrets(workspace: Workspace, world: World) -> str:
    names = workspace.secret_names
    missing = [name for name in names if not world.has_secret(name)]
    if not missing:
        return ", ".join(names)
    if world.is_cluster:
        raise SecretNotFound(
            f"Secret {missing[0]!r} was asked for; namespace {workspace.metadata.namespace} has "
            "none of that name; create it there (kubectl create secret docker-registry ...)"
        )
    if not world.push and not workspace.inference:
        return f"{', '.join(names)} (used with --push)"
    raise SecretNotFound(
        f"Secret {missing[0]!r} was asked for; it is neither in the file nor is there a "
        "docker config of yours; add the Secret to the file or run docker login"
    )


def _port(world: World, port: int) -> str:
    if not world.port_is_free(port):
        raise PortInUse(
            f"port {port} was asked for; somebody else listens there; "
            "choose another with --port, or leave --port away to get a free one"
        )
    return f"{port} is free"


def _disk(preset: Preset | None, home: Path) -> str:
    weights_gib = (preset.size_gib if preset else None) or 1.0
    needed_gib = weights_gib + _DISK_SPARE_GIB
    there = next(p for p in (home, *home.parents) if p.exists())
    free_gib = shutil.disk_usage(there).free / _GIB
    detail = f"about {needed_gib:.1f} GiB of {free_gib:.0f} GiB free for {home}"
    if free_gib < needed_gib:
        raise DiskFull(
            f"{detail}; free some disk, or set KAITOFLOW_HOME to a folder on a larger one"
        )
    return detail


def approximate_shape(preset: Preset) -> ModelShape | None:
    """The shape of a model of which only the size is known; None without a size.

    Layers and width as decoders of that size usually have: parameters = 12 x layers x hidden^2.
    """
    if preset.shape or not preset.parameters:
        return preset.shape
    layers = 32 if preset.parameters < 10e9 else 64
    hidden = round((preset.parameters / (12 * layers)) ** 0.5)
    return ModelShape(
        parameters=preset.parameters,
        layers=layers,
        hidden=hidden,
        intermediate=round(hidden * 8 / 3),
        vocabulary=65536,
    )


def _memory_gib(
    workspace: Workspace,
    preset: Preset,
    config: TrainingConfig | None,
    *,
    available_gib: float | None,
) -> float | None:
    shape = approximate_shape(preset)
    if workspace.tuning and shape and config:
        return _tuning_memory_gib(shape, config, available_gib=available_gib)
    if preset.size_gib is None:
        return None
    return serving_memory_gib(
        weights_gib=preset.size_gib,
        kv_bytes_per_token=preset.kv_bytes_per_token or 0,
        context_tokens=min(preset.context_tokens or _SERVED_CONTEXT_TOKENS, _SERVED_CONTEXT_TOKENS),
    )


def _tuning_memory_gib(
    shape: ModelShape, config: TrainingConfig, *, available_gib: float | None
) -> float:
    """Of the batch that the trainer will choose there; of the one that it wants, if none fits."""
    wanted = config.tuning_shape()
    found = batch_that_fits(
        shape,
        wanted,
        available_gib=inf if available_gib is None else available_gib,
        fixed_rows=config.rows_per_pass is not None,
        checkpointing=config.gradient_checkpointing,
    )
    return tuning_memory_gib(shape, found or wanted)


def _memory(memory_gib: float | None, world: World) -> Check | str:
    if memory_gib is None:
        return Check(
            name="memory",
            result="warn",
            detail="unknown until the weights are here",
            fix="the trainer checks it before it loads them",
        )
    if world.node is None:
        return f"peak about {memory_gib:.1f} GiB; a node that has it is looked for"
    detail = f"peak about {memory_gib:.1f} GiB of {world.node.memory_gib:.1f} GiB free"
    if memory_gib > world.node.memory_gib:
        raise ModelDoesNotFit(
            f"{detail}; choose a smaller preset, method qlora, a smaller max_length or batch size, "
            "or a machine with more memory"
        )
    return detail


def _seconds(
    workspace: Workspace, preset: Preset, config: TrainingConfig | None, node: Node | None
) -> tuple[float, float] | None:
    if not workspace.tuning:
        return _FIXED_SECONDS
    tokens = _expected_tokens(workspace)
    if not (tokens and preset.parameters and config and node):
        return None
    training_s = tuning_seconds(
        parameters=preset.parameters,
        tokens=round(tokens * float(config.training["num_train_epochs"])),
        operations_per_s=cpu_operations_per_s(node.cores),
    )
    low, high = _TIME_BAND
    return (_FIXED_SECONDS[0] + training_s * low, _FIXED_SECONDS[1] + training_s * high)


def _expected_tokens(workspace: Workspace) -> int | None:
    """Tokens of the dataset, guessed from file sizes; None when a size is not known."""
    assert workspace.tuning
    urls = workspace.tuning.input.urls
    if not urls or not all(_is_file(url) and _path(url).is_file() for url in urls):
        return None
    text_bytes = sum(
        _path(url).stat().st_size * (_PARQUET_SHRINKS if url.endswith("parquet") else 1)
        for url in urls
    )
    return round(text_bytes / _BYTES_PER_TOKEN)


def _time(seconds: tuple[float, float] | None) -> Check:
    if seconds is None:
        return Check(name="time", result="ok", detail="known once the dataset is counted")
    detail = f"about {duration(seconds[0])} to {duration(seconds[1])}"
    if seconds[0] < _SLOW_SECONDS:
        return Check(name="time", result="ok", detail=detail)
    fix = "tune on a GPU, choose a smaller preset, or set TrainingArguments.max_steps"
    return Check(name="time", result="warn", detail=detail, fix=fix)


def _is_file(url: str) -> bool:
    return url.startswith("file:")


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def with_absolute_files(workspace: Workspace, base: Path) -> Workspace:
    """The Workspace with its relative `file:` URLs counted from a folder."""
    if not workspace.tuning:
        return workspace
    urls = [_absolute(url, base) for url in workspace.tuning.input.urls]
    source = workspace.tuning.input.model_copy(update={"urls": urls})
    tuning = workspace.tuning.model_copy(update={"input": source})
    return workspace.model_copy(update={"tuning": tuning})


def _absolute(url: str, base: Path) -> str:
    return (base / _path(url)).resolve().as_uri() if _is_file(url) else url
