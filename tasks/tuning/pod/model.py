"""The base model in a number format that suits the hardware, and the adapter's settings."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from serving.model import find_device, load_base_model, load_tokenizer, preferred_dtype
from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.estimate.memory import PLAIN_ATTENTION_UP_TO
from tasks.tuning.pod.heap import give_back_holes
from tasks.tuning.pod.targets import check_target_modules, find_target_modules

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
    # KAITO's rule: text with a brace or a line break is the template itself.
    is_inline = "{" in template or "\n" in template
    if not is_inline and not Path(template).is_file():
        raise InvalidTuningConfig(
            f"ModelConfig.chat_template is {template!r}",
            "there is no such file",
            "give a path in the container or the template's text",
        )
    tokenizer.chat_template = template if is_inline else Path(template).read_text(encoding="utf-8")
    return tokenizer


def load_tuning_model(
    weights_dir: Path, config: TrainingConfig, *, device: str, longest: int
) -> PreTrainedModel:
    """The base model, quantised where the configuration says so; longest: tokens of any row."""
    dtype = settle_dtype(config.model.torch_dtype, device)
    model = load_base_model(
        weights_dir,
        dtype=dtype,
        device="cpu" if device == "cpu" else "auto",
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


def repack_weights(model: PreTrainedModel) -> None:
    """Undo `keep_weights_trainable`: answers come in half the time, and training is over."""
    from bitsandbytes.functional import has_avx512bf16

    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = has_avx512bf16()  # type: ignore[no-untyped-call]


def lora_settings(config: TrainingConfig, model: PreTrainedModel) -> "LoraConfig":
    """PEFT's configuration of the adapter, its target modules found or checked.

    Raises: InvalidTuningConfig.
    """
    from peft import LoraConfig

    settings = dict(config.lora)
    asked = settings.pop("target_modules", None)
    found = check_target_modules(model, asked) if asked else find_target_modules(model)
    try:
        return LoraConfig(**settings | {"task_type": "CAUSAL_LM", "target_modules": found})
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
    asked = settings.pop("bnb_4bit_compute_dtype", None)
    compute = settle_dtype(asked, device) if asked else dtype
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        **settings, bnb_4bit_compute_dtype=compute
    )
