"""What the Hugging Face hub says of a model that is in no catalogue, before a verdict on it.

Its config.json and the list of its tensors, some kilobytes; of weights in a single file the
beginning of that. Nothing is kept: the pods fetch and judge it anew.
"""

import json
from collections.abc import Mapping
from typing import Any

from tasks.contract.errors import DatasetUnreachable, DownloadFailed, WeightsUnavailable
from tasks.contract.model_config import EXPERTS, expert_numbers, header_bytes, read_header, shape_of
from tasks.estimate import GIB
from tasks.presets import Preset
from tasks.remote.file_server import Client, Interrupted, answer, check_status

HUB = "https://huggingface.co"
# Long chat templates and the tensors of a hundred files are below it; what is longer is no model's.
_MOST_BYTES = 32 * 2**20
_WIDE = {"float32": 4, "float64": 8}
_CACHE_BYTES, _KEYS_AND_VALUES = 2, 2
_QUANTISED = "quantised"


def look_up(client: Client, preset: Preset, *, endpoint: str) -> Preset:
    """The preset with the size and shape that the hub's files tell.

    Raises: WeightsUnavailable: there is none, or it is not open to all. DownloadFailed: a fault
        that may pass, or files that are not understood.
    """
    folder = f"{endpoint.rstrip('/')}/{preset.model}/resolve/{preset.revision}"
    try:
        config = json.loads(_read(client, f"{folder}/config.json"))
        if kind := _stored_as(config):
            return preset.model_copy(update=_quantised(kind))
        shape = shape_of(config, _tensors(client, folder, config))
    except DatasetUnreachable as error:
        raise WeightsUnavailable(
            f"{preset.model} was looked up on the hub",
            error.found,
            "check name and revision; a gated model is looked at by its pods alone",
        ) from error
    except Interrupted as fault:
        raise DownloadFailed(
            f"{preset.model} was looked up on the hub", str(fault), "run the plan again"
        ) from fault
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadFailed(
            f"{preset.model} was looked up on the hub",
            f"its files are not understood ({type(error).__name__}: {error})",
            "see whether they are of a language model with safetensors",
        ) from error
    text = config.get("text_config") or config
    cache = _KEYS_AND_VALUES * shape.layers * shape.kv_hidden * _CACHE_BYTES
    return preset.model_copy(
        update={
            "shape": shape,
            "architecture": str(config.get("model_type", "")),
            "size_gib": shape.parameters * 2 / GIB,
            "context_tokens": text.get("max_position_embeddings"),
            "kv_bytes_per_token": cache,
        }
    )


def _stored_as(config: Mapping[str, Any]) -> str:
    """How the weights are quantised where they are published; "" = they are not."""
    parts = (config, config.get("text_config") or {})
    stored = next(filter(None, (part.get("quantization_config") for part in parts)), None)
    return str(stored.get("quant_method", "an unknown kind")) if stored else ""


def _quantised(kind: str) -> dict[str, Any]:
    methods = dict.fromkeys(("lora", "qlora"), _QUANTISED)
    return {"quantized": kind, "tunes": methods, "serves": {"transformers": _QUANTISED}}


def _tensors(client: Client, folder: str, config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Each tensor of a single file; of several files all in one, and their experts."""
    try:
        index = json.loads(_read(client, f"{folder}/model.safetensors.index.json"))
    except DatasetUnreachable:
        return _header(client, f"{folder}/model.safetensors")
    text = config.get("text_config") or config
    dtype = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    numbers = int(index["metadata"]["total_size"]) // _WIDE.get(str(dtype), 2)
    experts = expert_numbers(config) if any(EXPERTS in name for name in index["weight_map"]) else 0
    return [("all others", numbers - experts), (f"all{EXPERTS}", experts)]


def _header(client: Client, url: str) -> list[tuple[str, int]]:
    beginning = _read(client, url, most=8)
    return read_header(_read(client, url, most=min(header_bytes(beginning), _MOST_BYTES)))


def _read(client: Client, url: str, *, most: int | None = None) -> bytes:
    """The file, or so many bytes of its beginning.

    Raises: DatasetUnreachable, Interrupted. ValueError: it is too long.
    """
    headers = {} if most is None else {"Range": f"bytes=0-{most - 1}"}
    content, limit = b"", _MOST_BYTES if most is None else most
    with answer(client, url, headers) as response:
        check_status(url, response)
        for chunk in response.iter_raw():
            content += chunk
            if len(content) >= limit:
                break
    if most is None and len(content) >= limit:
        raise ValueError(f"{url.rpartition('/')[2]} has over {_MOST_BYTES} bytes")
    return content[:limit]
