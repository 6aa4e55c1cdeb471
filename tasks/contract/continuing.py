"""From which adapter a training goes on, and what of its settings follows from that. Pure.

An adapter's rank and layers are what they are: settings that the user leaves out are taken from it,
and those that say something else are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tasks.contract.errors import AdapterMismatch, InvalidTuningConfig, InvalidWorkspace
from tasks.contract.image_reference import parse_reference
from tasks.contract.training_config import TrainingConfig

CONTINUE_ANNOTATION = "kaitoflow.io/continue-from"
SERVING = "serving"

# What decides which weights an adapter has, and how they count.
_SHAPING = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "bias", "use_rslora", "use_dora"),
    *("modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
)
# What PEFT can do besides and this trainer does not.
_NOT_TRAINED = (
    *("trainable_token_indices", "target_parameters", "layer_replication", "lora_bias"),
    *("use_qalora", "alora_invocation_tokens", "megatron_config"),
)
_NOTHING: tuple[Any, ...] = (None, False, "none", [], {}, "")
# Ways to begin an adapter that leave the base's weights as they are.
PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the adapter is that is gone on from; neither = it is the one that serves."""

    image: str = ""
    folder: str = ""


def parse_start(text: str | None) -> Start | None:
    """What the annotation's text names: `serving`, an image, or a folder (/..., ./..., ../...).

    Raises: InvalidWorkspace, ImageReferenceInvalid.
    """
    if text is None:
        return None
    if text == SERVING:
        return Start()
    if text.startswith(("/", "./", "../")):
        return Start(folder=text)
    if "/" not in text:
        raise InvalidWorkspace(
            f"annotation {CONTINUE_ANNOTATION} is {text!r}",
            "that is no image with its registry, and no folder",
            "write serving, an image (registry.example.com/adapters/a:1), or a folder with / or "
            "./ in front",
        )
    parse_reference(text)
    return Start(image=text)


def other_base(adapter: Mapping[str, Any], *, model: str, revision: str) -> tuple[str, str] | None:
    """The base that an adapter was made for and the one that is here, where they differ.

    Hub names are compared; a base named by a path (as KAITO's adapters do) says nothing.
    """
    base = adapter.get("base_model_name_or_path") or ""
    if base.count("/") != 1 or base.startswith(("/", ".")):
        return None
    made_for = adapter.get("revision")
    if base.lower() != model.lower():
        return base, model
    if made_for not in (None, "main", revision) and revision != "main":
        return f"{base} at revision {made_for}", f"revision {revision}"
    return None


def continued(
    config: TrainingConfig, adapter: Mapping[str, Any], *, name: str, model: str, revision: str
) -> TrainingConfig:
    """The settings of a training that goes on from an adapter: its rank, layers and scale.

    Args: adapter: what its adapter_config.json says. name: as the user named it. model, revision:
    of the base that is tuned.
    Raises: AdapterMismatch: it is of another base, or of a kind that is not trained here.
    InvalidTuningConfig: the user's LoraConfig says something else than the adapter.
    """
    asked = f"the training is to go on from {name}"
    if adapter.get("peft_type") != "LORA":
        raise AdapterMismatch(
            asked,
            f"it is of type {adapter.get('peft_type')}, and only LORA is trained",
            "name a LoRA adapter",
        )
    if differ := other_base(adapter, model=model, revision=revision):
        raise AdapterMismatch(
            asked,
            f"it was made for {differ[0]}, and the base model here is {differ[1]}",
            "set tuning.preset.name to its base model, or name another adapter",
        )
    if adapter.get("init_lora_weights") not in PLAIN_INITS:
        raise AdapterMismatch(
            asked,
            f"its weights count from a base that {adapter['init_lora_weights']} has changed",
            "convert it to plain LoRA (PEFT's save_pretrained with"
            " path_initial_model_for_weight_conversion)",
        )
    if strange := [key for key in _NOT_TRAINED if adapter.get(key) not in _NOTHING]:
        raise AdapterMismatch(
            asked, f"it has {strange[0]}, which is not trained here", "name a plain LoRA adapter"
        )
    _expect_the_same(config, adapter, asked=asked)
    own = {key: value for key, value in config.lora.items() if key not in _SHAPING}
    return replace(config, lora=own | shape_of(adapter))


def shape_of(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter_config.json says of rank, layers and scale."""
    return {key: adapter[key] for key in _SHAPING if adapter.get(key) not in _NOTHING}


def _expect_the_same(config: TrainingConfig, adapter: Mapping[str, Any], *, asked: str) -> None:
    if "init_lora_weights" in config.given_lora:
        raise InvalidTuningConfig(
            asked,
            "LoraConfig.init_lora_weights says how an adapter begins, and this one has begun",
            "remove it",
        )
    for key in _SHAPING:
        ours, its = config.lora.get(key), adapter.get(key)
        if key in config.given_lora and _plain(ours) != _plain(its):
            raise InvalidTuningConfig(
                f"{asked}, with LoraConfig.{key} {ours}",
                f"the adapter's is {its}",
                f"remove LoraConfig.{key} to go on with the adapter's, or begin anew without "
                f"{CONTINUE_ANNOTATION}",
            )


def _plain(value: Any) -> Any:
    """The value without what PEFT does not mind: the order of names, and ways to say nothing."""
    if value in _NOTHING:
        return None
    return sorted(map(str, value)) if isinstance(value, list) else value
