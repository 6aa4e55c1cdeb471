"""LoRA adapters beside a model in memory: checked against it first, then added and taken away.

None is merged, so that a request picks one by name and the base model answers as it did without.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.model.adapter_folder import read_short
from serving.model.adapter_names import adapter_key
from serving.model.expressions import expect_ending
from serving.model.layers import Layers, layers_of
from serving.weights.marker import Marker, read_marker
from tasks.contract.continuing import PLAIN_INITS, other_base
from tasks.contract.errors import AdapterMismatch
from tasks.contract.plain_lora import beyond_plain
from tasks.contract.programs.serving import AdapterSource

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"
_LORA_WEIGHTS = (".lora_A.weight", ".lora_B.weight")


def load_adapters(
    model: "PreTrainedModel", sources: Sequence[AdapterSource], *, weights_dir: Path
) -> "PreTrainedModel | PeftModel":
    """The model with every adapter loaded beside each other, each scaled by its strength.

    Without sources the model itself. Raises: AdapterMismatch.
    """
    for source in sources:
        check_adapter(source, layers_of(model), marker=read_marker(weights_dir))
    adapted: PreTrainedModel | PeftModel = model
    for source in sources:
        adapted = add_adapter(adapted, source)
    return adapted


def add_adapter(model: "PreTrainedModel | PeftModel", source: AdapterSource) -> "PeftModel":
    """The model with one adapter more, which has been checked.

    Raises: AdapterMismatch: PEFT cannot load it; what the model answers is as before.
    """
    from peft import PeftConfig, PeftModel

    key, path = adapter_key(source.name), str(source.path)
    options: dict[str, Any] = {"autocast_adapter_dtype": False}
    with warnings.catch_warnings():  # between the libraries, about names that they still use
        warnings.simplefilter("ignore", FutureWarning)
        if not isinstance(model, PeftModel):
            config = PeftConfig.from_pretrained(path)
            config.inference_mode = True
            model = PeftModel(model, config, adapter_name=key, **options)
        try:
            model.load_adapter(path, adapter_name=key, use_safetensors=True, **options)
        except (RuntimeError, ValueError) as error:
            if key in model.peft_config:
                remove_adapter(model, source.name)
            raise AdapterMismatch(
                f"adapter {source.name} was asked for",
                f"PEFT cannot load it ({error})",
                "tune it again over this base model",
            ) from error
    _scale(model, source)
    return model.eval()


def remove_adapter(model: "PeftModel", name: str) -> None:
    """Free the adapter's weights; the model stays ready for others."""
    key = adapter_key(name)
    others = [other for other in model.peft_config if other != key]
    # An adapter that is active while it goes has PEFT choose another, with a warning.
    tuner: Any = model.base_model
    tuner.set_adapter(others[:1], inference_mode=True)
    model.delete_adapter(key)


def _scale(model: "PeftModel", source: AdapterSource) -> None:
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(adapter_key(source.name), source.strength)


def weights_digest(folder: Path) -> str:
    """The sha256 of an adapter's weights, in hex: two loads with one name can be told apart."""
    with (folder / _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_adapter(source: AdapterSource, layers: Layers, *, marker: Marker | None) -> None:
    """Nothing when the adapter was made for the base model that has these layers.

    Raises: AdapterMismatch, naming the adapter, its base and the first weight that does not fit.
    """
    config = adapter_config(source)
    _check_base(source, config, marker)
    shapes = weight_shapes(source)
    for key, shape in shapes.items():
        _check_weight(source, key, shape, layers)
    _check_ranks(source, config, shapes)
    expect_ending(source.name, config, layers)


def check_mixes(source: AdapterSource) -> None:
    """Nothing when the adapter may come while others answer: plain LoRA, and nothing else.

    Raises: AdapterMismatch, naming what it has besides.
    """
    if what := beyond_plain_lora(source):
        raise AdapterMismatch(
            f"adapter {source.name} was to be loaded beside others",
            f"it has {what}, whose rows share no batch with other adapters' or which changes more"
            " than layers",
            "name it in the Workspace, so that it is there from the start, or tune plain LoRA",
        )


def beyond_plain_lora(source: AdapterSource) -> str:
    """What the adapter has besides plain LoRA, by name; empty = nothing.

    Raises: AdapterMismatch: its files cannot be read.
    """
    config = adapter_config(source)
    asked = beyond_plain(config)
    strange = [key for key in weight_shapes(source) if not key.endswith(_LORA_WEIGHTS)]
    return ", ".join(asked) or (f"the weight {strange[0]}" if strange else "")


def adapter_config(source: AdapterSource) -> dict[str, Any]:
    """What an adapter's files say of it. Raises: AdapterMismatch: they are of no plain LoRA."""
    try:
        config: dict[str, Any] = json.loads(read_short(source.path / "adapter_config.json"))
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
    # PEFT repeats the others while it loads (PiSSA, OLoRA, CorDA), on the weights that the base
    # model answers with.
    if config.get("init_lora_weights") not in PLAIN_INITS:
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            f"its weights count from a base that {config['init_lora_weights']} has changed",
            "convert it to plain LoRA (PEFT's save_pretrained with"
            " path_initial_model_for_weight_conversion)",
        )
    return config


def _check_base(source: AdapterSource, config: dict[str, Any], marker: Marker | None) -> None:
    if marker is None:
        return
    differ = other_base(config, model=marker.model_id, revision=marker.revision)
    if differ is None:
        return
    raise AdapterMismatch(
        f"adapter {source.name} was made for {differ[0]}",
        f"the weights here are {differ[1]}",
        "serve it over its own base model, or tune it again over this one",
    )


def weight_shapes(source: AdapterSource) -> dict[str, tuple[int, ...]]:
    """Tensor name to shape, out of the file's header alone."""
    from safetensors import SafetensorError, safe_open

    path = source.path / _WEIGHTS
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            f"{path} cannot be read ({error})",
            "give a folder with adapter_model.safetensors (pickled adapters are not loaded)",
        ) from error


def _check_weight(source: AdapterSource, key: str, shape: tuple[int, ...], layers: Layers) -> None:
    """Match `base_model.model.LAYER.lora_A.weight` [r, in] and `lora_B` [out, r] with LAYER."""
    layer_name, _, kind = key.removeprefix("base_model.model.").partition(".lora_")
    if kind not in ("A.weight", "B.weight"):
        return
    if layer_name not in layers:
        raise AdapterMismatch(
            f"adapter {source.name} changes the layer {layer_name}",
            "the base model has none of that name",
            "serve it over the model it was tuned on",
        )
    side, ours = (shape[1], "in_features") if kind[0] == "A" else (shape[0], "out_features")
    expected = layers[layer_name][0 if kind[0] == "A" else 1]
    if expected is not None and expected != side:
        raise AdapterMismatch(
            f"adapter {source.name} expects {side} {ours} in {layer_name}",
            f"the base model has {expected}",
            "serve it over the model it was tuned on",
        )


def _check_ranks(
    source: AdapterSource, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Match the ranks of each layer's A [r, in] and B [out, r], and with what the config says."""
    patterned = bool(config.get("rank_pattern"))
    for key, shape in shapes.items():
        if not key.endswith(".lora_A.weight"):
            continue
        layer = key.removesuffix(".lora_A.weight")
        other = shapes.get(f"{layer}.lora_B.weight")
        expected = shape[0] if patterned else config.get("r", shape[0])
        if other is None or not shape[0] == other[1] == expected:
            second = f"lora_B has {other[1]}" if other else "there is no lora_B"
            raise AdapterMismatch(
                f"adapter {source.name} says rank {config.get('r')}",
                f"in {layer} lora_A has {shape[0]} and {second}",
                "copy the adapter whole again: its files belong to different trainings",
            )
