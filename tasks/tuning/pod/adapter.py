"""The folder that is published: same weights and settings, same bytes.

Nothing in it tells a time, a duration or a path of this machine; those are in results_dir alone.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    folder: Path,
    base_model: str,
    base_revision: str,
    metrics: Mapping[str, Any],
    card: str,
) -> None:
    """Write the folder as a whole: it appears once every file is in it."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in sorted(get_peft_model_state_dict(model).items())
    }
    save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _adapter_config(model, base_model, base_revision)
    write_json(partial / "adapter_config.json", config)
    tokenizer.save_pretrained(partial)
    describe_adapter(partial, metrics, card=card)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def describe_adapter(folder: Path, metrics: Mapping[str, Any], *, card: str) -> None:
    """Write, or write anew, what the folder says of the adapter."""
    write_json(folder / "metrics.json", metrics)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file whole or not at all, keys in order."""
    written = path.with_name(f".{path.name}")
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    written.write_text(text + "\n", encoding="utf-8")
    written.replace(path)


def _adapter_config(model: PeftModel, base_model: str, base_revision: str) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": base_model,
        "revision": base_revision,
        "inference_mode": True,
    }
    return {name: _ordered(value) for name, value in config.items()}


def _ordered(value: Any) -> Any:
    """JSON's types; a set has no order of its own."""
    return sorted(value) if isinstance(value, set | frozenset) else value
