"""The base model and its licence, and the parameters of the training. Pure."""

import os

from tasks.config_map import config_map_text
from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidWorkspace, Refused
from tasks.contract.shapes import ModelShape
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.contract.workspace import Workspace
from tasks.platform.base import World
from tasks.presets import Preset, find_preset


def base_model(workspace: Workspace, world: World) -> Check | str:
    """The model with its size and licence.

    Raises: UnknownPreset, InvalidWorkspace.
    """
    if not workspace.preset and world.is_cluster:
        return "a pod of your own image (inference.template)"
    if not workspace.preset:
        raise InvalidWorkspace(
            "inference.template asks for a pod of your own image",
            "this platform serves presets",
            "apply it to a cluster",
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


def preset_or_none(workspace: Workspace) -> Preset | None:
    """The base model; None where there is none of that name."""
    try:
        return find_preset(workspace.preset.name) if workspace.preset else None
    except Refused:
        return None


def parameters(workspace: Workspace, world: World) -> str:
    """The settings of the training in one line, and where they come from.

    Raises: InvalidTuningConfig, ConfigMapNotFound.
    """
    config = _training_config(workspace, world)
    assert config
    assert workspace.tuning
    source = f"ConfigMap {workspace.tuning.config}" if workspace.tuning.config else "defaults"
    return f"{source}: {config.summary}"


def config_or_none(workspace: Workspace, world: World) -> TrainingConfig | None:
    """The settings of the training; None where there is none, or one that cannot be used."""
    try:
        return _training_config(workspace, world)
    except Refused:
        return None


def _training_config(workspace: Workspace, world: World) -> TrainingConfig | None:
    if not workspace.tuning:
        return None
    name = workspace.tuning.config
    text = config_map_text(world.config_maps.get(name), name) if name else None
    return parse_training_config(text, method=workspace.tuning.method)


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
