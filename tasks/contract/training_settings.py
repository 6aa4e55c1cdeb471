"""The settings of a training by name, so that those of two adapters can be told apart. Pure."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from tasks.contract.training_config import TrainingConfig

# A chat template has thousands of characters; what is longer than this is told by its digest.
_SHOWN_MAX_CHARS = 80


def training_settings(config: TrainingConfig) -> dict[str, str]:
    """Each setting that has a value, defaults too, as SECTION.NAME in the user's words."""
    sections = {
        "ModelConfig": asdict(config.model),
        "QuantizationConfig": config.quantization,
        "LoraConfig": config.lora,
        "TrainingArguments": config.training,
        "DatasetConfig": asdict(config.dataset),
    }
    return {
        f"{section}.{name}": _shown(value)
        for section, values in sections.items()
        for name, value in sorted(values.items())
        if value is not None
    }


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) <= _SHOWN_MAX_CHARS:
        return text
    return f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
