"""A model in memory, for the server and the trainer alike.

Safetensors only, nothing from the network, never code out of a model's folder.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from serving.model.gpus import asked_device
from tasks.contract.errors import ModelNotSupported, WeightsUnavailable
from tasks.estimate.processor import cpu_has_bf16
from tasks.skus import has_bf16

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

log = logging.getLogger(__name__)


def quiet_libraries() -> None:
    """Turn off progress bars and warnings of the model libraries that are no news to a user.

    Call it before peft or bitsandbytes is imported: the latter warns while it is being imported (in
    `bitsandbytes.backends.cpu.ops`, on CPUs with bfloat16) that an optional kernel is not there.
    """
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def preferred_dtype(device: str) -> torch.dtype:
    """The fastest number format that the device computes in itself and a model stays well in.

    bfloat16 on GPUs since Ampere and CPUs with bfloat16 instructions, float16 on older GPUs, else
    float32.
    """
    if device.startswith("cuda"):
        return gpu_dtype(torch.cuda.get_device_capability())
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def gpu_dtype(compute_capability: tuple[int, int]) -> torch.dtype:
    """`preferred_dtype` of an NVIDIA GPU."""
    return torch.bfloat16 if has_bf16(compute_capability) else torch.float16


def stored_dtype(weights_dir: Path) -> torch.dtype:
    """The number format that the folder's weights are stored in, as its config says it."""
    told = json.loads((weights_dir / "config.json").read_text(encoding="utf-8"))
    name = told.get("dtype") or told.get("torch_dtype")  # the one of transformers 5, and before
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def find_device(device: str = "auto") -> str:
    """The device that `auto` stands for: the GPU where there is one, else the CPU.

    KAITOFLOW_DEVICE says otherwise: `cpu` on a node whose GPUs are not to be used.
    """
    device = asked_device() if device == "auto" else device
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def expect_plain_weights(weights_dir: Path, *, asked: str) -> None:
    """Nothing, if the folder's weights are numbers of 16 or 32 bits.

    Of others transformers would ignore how they are stored, since we say ourselves how they are to
    be quantised, and go on with weights that mean nothing.

    Raises: ModelNotSupported.
    """
    config = weights_dir / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    parts = (told, told.get("text_config") or {})
    stored = next(filter(None, (part.get("quantization_config") for part in parts)), None)
    if stored is None:
        return
    kind = stored.get("quant_method", "an unknown kind")
    raise ModelNotSupported(
        asked,
        f"its weights are stored as {kind}, and only those of 16 bits are taken",
        "name the same model's 16-bit weights, as most publishers have them too",
    )


def load_base_model(
    weights_dir: Path,
    *,
    dtype: torch.dtype,
    device: str = "auto",
    quantization: "BitsAndBytesConfig | None" = None,
) -> "PreTrainedModel":
    """The folder's model on its device, in evaluation mode.

    device: cpu, cuda, cuda:N, or auto: spread over all GPUs where there are several, else as
    `find_device` says.
    Raises: WeightsUnavailable, ModelNotSupported.
    """
    expect_plain_weights(weights_dir, asked=f"the model in {weights_dir} is to be loaded")
    place = find_device(device)
    if device == "auto" and place == "cuda" and torch.cuda.device_count() > 1:
        place = "auto"
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            weights_dir,
            dtype=dtype,
            device_map=place,
            quantization_config=quantization,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"the model in {weights_dir} was asked for",
            f"transformers cannot load it ({error})",
            "the folder needs config.json and safetensors of an architecture that "
            "transformers knows",
        ) from error
    model.eval()  # type: ignore[no-untyped-call]
    return model
