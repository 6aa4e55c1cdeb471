"""A model, its tokenizer and its adapters in memory, for the server and the trainer alike.

Safetensors only, nothing from the network, never code out of a model's folder.
"""

import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.gpus import asked_device
from serving.weights import Marker, read_marker
from tasks.contract.errors import AdapterMismatch, WeightsUnavailable
from tasks.contract.programs.serving import AdapterSource
from tasks.skus import has_bf16

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

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
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def gpu_dtype(compute_capability: tuple[int, int]) -> torch.dtype:
    """`preferred_dtype` of an NVIDIA GPU."""
    return torch.bfloat16 if has_bf16(compute_capability) else torch.float16


def _cpu_computes_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def find_device(device: str = "auto") -> str:
    """The device that `auto` stands for: the GPU where there is one, else the CPU.

    KAITOFLOW_DEVICE says otherwise: `cpu` on a node whose GPUs are not to be used.
    """
    device = asked_device() if device == "auto" else device
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(weights_dir: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer with its chat template; it always has a padding token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        weights_dir, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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
    """
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


def adapter_key(name: str) -> str:
    """The adapter's name inside the model: without dots, and never that of an attribute."""
    return "adapter-" + name.replace(".", "-dot-")


def load_adapters(
    model: "PreTrainedModel", sources: Sequence[AdapterSource], *, weights_dir: Path
) -> "PreTrainedModel | PeftModel":
    """The model with every adapter loaded beside each other, each scaled by its strength.

    Without sources the model itself. None of the adapters is merged: a request picks one by name.
    Raises: AdapterMismatch.
    """
    if not sources:
        return model
    from peft import PeftModel

    for source in sources:
        check_adapter(source, model, marker=read_marker(weights_dir))
    options: dict[str, Any] = {"autocast_adapter_dtype": False, "use_safetensors": True}
    first, *others = sources
    with warnings.catch_warnings():  # between the libraries, about names that they still use
        warnings.simplefilter("ignore", FutureWarning)
        adapted = PeftModel.from_pretrained(
            model, str(first.path), adapter_name=adapter_key(first.name), **options
        )
        for source in others:
            adapted.load_adapter(str(source.path), adapter_name=adapter_key(source.name), **options)
    for source in sources:
        _scale(adapted, source)
    return adapted.eval()


def _scale(model: "PeftModel", source: AdapterSource) -> None:
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(adapter_key(source.name), source.strength)


def check_adapter(
    source: AdapterSource, model: "PreTrainedModel", *, marker: Marker | None
) -> None:
    """Nothing when the adapter was made for this base model.

    Raises: AdapterMismatch, naming the adapter, its base and the first weight that does not fit.
    """
    config = _adapter_config(source)
    _check_base(source, config, marker)
    for key, shape in _weight_shapes(source).items():
        _check_weight(source, key, shape, model)


def _adapter_config(source: AdapterSource) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source.path / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            f"{source.path} has no readable adapter_config.json ({error})",
            "give a folder that PEFT wrote",
        ) from error
    if config.get("peft_type") != "LORA":
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            f"it is of type {config.get('peft_type')}, and only LORA can be served",
            "tune a LoRA adapter",
        )
    return config


def _check_base(source: AdapterSource, config: dict[str, Any], marker: Marker | None) -> None:
    """Compare hub names; a base named by a path (as KAITO's adapters do) says nothing."""
    base = config.get("base_model_name_or_path") or ""
    if marker is None or base.count("/") != 1 or base.startswith(("/", ".")):
        return
    revision = config.get("revision")
    if base.lower() != marker.model_id.lower():
        found = f"{marker.model_id}"
    elif revision not in (None, "main", marker.revision) and marker.revision != "main":
        base, found = f"{base} at revision {revision}", f"revision {marker.revision}"
    else:
        return
    raise AdapterMismatch(
        f"adapter {source.name} was made for {base}",
        f"the weights here are {found}",
        "serve it over its own base model, or tune it again over this one",
    )


def _weight_shapes(source: AdapterSource) -> dict[str, tuple[int, ...]]:
    """Tensor name to shape, out of the file's header alone."""
    from safetensors import SafetensorError, safe_open

    path = source.path / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            f"{path} cannot be read ({error})",
            "give a folder with adapter_model.safetensors (pickled adapters are not loaded)",
        ) from error


def _check_weight(
    source: AdapterSource, key: str, shape: tuple[int, ...], model: "PreTrainedModel"
) -> None:
    """Match `base_model.model.LAYER.lora_A.weight` [r, in] and `lora_B` [out, r] with LAYER."""
    layer_name, _, kind = key.removeprefix("base_model.model.").partition(".lora_")
    if kind not in ("A.weight", "B.weight"):
        return
    try:
        layer: Any = model.get_submodule(layer_name)
    except AttributeError:
        raise AdapterMismatch(
            f"adapter {source.name} changes the layer {layer_name}",
            "the base model has none of that name",
            "serve it over the model it was tuned on",
        ) from None
    side, ours = (shape[1], "in_features") if kind[0] == "A" else (shape[0], "out_features")
    expected = getattr(layer, ours, None)
    if expected is not None and expected != side:
        raise AdapterMismatch(
            f"adapter {source.name} expects {side} {ours} in {layer_name}",
            f"the base model has {expected}",
            "serve it over the model it was tuned on",
        )
