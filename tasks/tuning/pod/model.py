"""The base model in a number format that suits the hardware, and the adapter's settings."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from serving.model.loading import find_device, load_base_model, preferred_dtype
from serving.model.tokenizer import load_tokenizer
from tasks.chat.template import read_chat_template
from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.modules import check_other_names, check_targets, excluded, find_targets
from tasks.contract.training_config import TrainingConfig
from tasks.estimate.memory import PLAIN_ATTENTION_UP_TO
from tasks.tuning.pod.heap import give_back_holes
from tasks.tuning.pod.targets import modules_of

if TYPE_CHECKING:
    from peft import LoraConfig

log = logging.getLogger(__name__)


def settle_device(config: TrainingConfig) -> str:
    """`cuda` where there is a GPU and the user does not say otherwise, else `cpu`."""
    return "cpu" if config.training.get("use_cpu") else find_device()


def settle_dtype(asked: str, device: str) -> torch.dtype:
    """The number format asked for where the device computes in it, else the one it prefers."""
    return dtype_for(asked, preferred=preferred_dtype(device), on_gpu=device.startswith("cuda"))


def dtype_for(asked: str, *, preferred: torch.dtype, on_gpu: bool) -> torch.dtype:
    """`settle_dtype` of a device that prefers that format.

    So bfloat16, which KAITO's configurations ask for, is float16 on a T4, and float16 asked of a
    CPU is what that CPU prefers.
    """
    if asked == "float32":
        return torch.float32
    return torch.float16 if asked == "float16" and on_gpu else preferred


def load_tuning_tokenizer(weights_dir: Path, config: TrainingConfig) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with the user's chat template where one is given.

    Raises: InvalidTuningConfig: the template is a path without a file.
    """
    tokenizer = load_tokenizer(weights_dir)
    template = config.model.chat_template
    if template is None:
        return tokenizer
    tokenizer.chat_template = read_chat_template(template)
    return tokenizer


def load_tuning_model(
    weights_dir: Path, config: TrainingConfig, *, device: str, longest: int
) -> PreTrainedModel:
    """The base model, quantised where the configuration says so.

    Args: device: cpu, or cuda:N. longest: tokens of any row.
    """
    dtype = settle_dtype(config.model.torch_dtype, device)
    model = load_base_model(
        weights_dir,
        dtype=dtype,
        device=device,
        quantization=_quantization(config, dtype, device),
    )
    if device == "cpu":
        give_back_holes()
        keep_weights_trainable(model)
        if longest <= PLAIN_ATTENTION_UP_TO:
            model.set_attn_implementation("eager")
    log.info("model loaded dtype=%s device=%s quantised=%s", dtype, device, config.is_quantized)
    return model


def keep_weights_trainable(model: PreTrainedModel) -> None:
    """Have 4-bit weights stay as they are on a CPU.

    In evaluation mode bitsandbytes repacks them for a kernel that rounds their scales and knows no
    gradient: a run would not be the same after an evaluation.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def lora_settings(config: TrainingConfig, model: PreTrainedModel) -> "LoraConfig":
    """PEFT's configuration of the adapter, its target modules found or checked.

    Raises: InvalidTuningConfig.
    """
    from peft import LoraConfig

    settings, modules = dict(config.lora), modules_of(model)
    check_other_names(modules, settings)
    asked = settings.pop("target_modules", None)
    targets = check_targets(modules, asked) if asked else find_targets(modules)
    settings["exclude_modules"] = excluded(modules, targets, settings.get("exclude_modules"))
    try:
        return LoraConfig(**settings | {"task_type": "CAUSAL_LM", "target_modules": targets})
    except (TypeError, ValueError) as error:
        raise InvalidTuningConfig(
            f"LoraConfig was asked for {settings}",
            f"peft refuses it ({error})",
            "correct the section",
        ) from error


def _quantization(
    config: TrainingConfig, dtype: torch.dtype, device: str
) -> BitsAndBytesConfig | None:
    if not config.is_quantized:
        return None
    settings = dict(config.quantization)
    if skipped := settings.get("llm_int8_skip_modules"):
        # The user's list takes the place of the library's own, whose only name this is.
        settings["llm_int8_skip_modules"] = sorted({*skipped, "lm_head"})
    asked = settings.pop("bnb_4bit_compute_dtype", None)
    compute = settle_dtype(asked, device) if asked else dtype
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        **settings, bnb_4bit_compute_dtype=compute
    )
