"""The base model and its licence, and the parameters of the training. Pure."""

import os

from tasks.config_map import config_map_text
from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidWorkspace, KaitoflowError, ModelNotSupported, Refused
from tasks.contract.modules import check_other_names, check_targets
from tasks.contract.training_config import TrainingConfig, parse_training_config
from tasks.contract.training_policy import POLICY_ANNOTATION, expect_evaluated
from tasks.contract.workspace import SERVE_ANNOTATION, Workspace
from tasks.engines import engines_asked
from tasks.plan.check import from_error
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tasks.presets import Preset, find_preset, near_in_size
from tasks.presets.modules import modules_of_preset
from tasks.settings import settings


def base_model(
    workspace: Workspace, world: World, seen: Preset | KaitoflowError | None = None
) -> Check | str:
    """The model with its size and licence.

    Args: seen: what the hub says of one that is in no catalogue.
    Raises: UnknownPreset, InvalidWorkspace, ModelNotSupported.
    """
    if not workspace.preset and world.is_cluster:
        return "a pod of your own image (inference.template)"
    if not workspace.preset:
        raise InvalidWorkspace(
            "inference.template asks for a pod of your own image",
            "this platform serves presets",
            "apply it to a cluster",
        )
    preset = seen if isinstance(seen, Preset) else find_preset(workspace.preset.name)
    _expect_supported(preset, workspace, has_vllm=_has_vllm(world))
    size = f", {preset.parameters / 1e6:,.0f}M parameters" if preset.parameters else ""
    licence = f", licence {preset.licence}" if preset.licence else ""
    detail = f"{preset.at_revision}{size}{licence}"
    if isinstance(seen, KaitoflowError):
        told = from_error("base model", seen, result="warn")
        return told.model_copy(update={"detail": f"{detail}; {told.detail}"})
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


def _has_vllm(world: World) -> bool:
    """Whether vLLM may serve: on a cluster its image has it, elsewhere a person says so."""
    return world.is_cluster or bool(settings().vllm_program)


def _expect_supported(preset: Preset, workspace: Workspace, *, has_vllm: bool) -> None:
    """Nothing, if our trainer and one of our servers can do with the model what is asked for."""
    use, why = _unsupported(preset, workspace, has_vllm=has_vllm)
    if not why:
        return
    other = near_in_size(
        preset, lambda each: not _unsupported(each, workspace, has_vllm=has_vllm)[1]
    )
    fix = f"choose a model that can be{f', such as {other.name}' if other else ''}"
    if use == "tuned by qlora" and not preset.why_not_tuned("lora"):
        fix = f"use method lora, or {fix}"
    if workspace.tuning and use == "served":
        fix += f', or annotate {SERVE_ANNOTATION}: "false"'
    raise ModelNotSupported(
        f"{preset.model} is to be {use}", why, f"{fix} (kaitoflow models lists what each can do)"
    )


def _unsupported(preset: Preset, workspace: Workspace, *, has_vllm: bool) -> tuple[str, str]:
    """What of that which is asked for cannot be done with the model, and why; "" = nothing."""
    method = workspace.tuning.method if workspace.tuning else ""
    if method and (why := preset.why_not_tuned(method)):
        return f"tuned by {method}", why
    if not workspace.is_served:
        return "served", ""
    engines = engines_asked(workspace, has_vllm=has_vllm)
    return "served", preset.why_not_served(*engines)


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


def parameters(workspace: Workspace, world: World, findings: Findings) -> str:
    """The settings of the training in one line, and where they come from.

    Raises: InvalidTuningConfig, InvalidWorkspace, ConfigMapNotFound.
    """
    config = _training_config(workspace, world)
    assert config
    assert workspace.tuning
    if isinstance(findings.chat_template, KaitoflowError):
        raise findings.chat_template
    _expect_modules(workspace, config)
    expect_evaluated(workspace.metadata.annotations.get(POLICY_ANNOTATION), config)
    source = f"ConfigMap {workspace.tuning.config}" if workspace.tuning.config else "defaults"
    return f"{source}: {config.summary}"


def _expect_modules(workspace: Workspace, config: TrainingConfig) -> None:
    """Nothing, if the model has each module that the settings name, as far as that is known."""
    preset = preset_or_none(workspace)
    modules = modules_of_preset(preset) if preset else None
    if modules is None:
        return
    check_other_names(modules, config.lora)
    if targets := config.lora.get("target_modules"):
        check_targets(modules, targets)


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
