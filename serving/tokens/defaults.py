"""What the folder of a model says of generating with it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GenerationDefaults:
    """The tokens that end a text, and the sampling that the model's authors recommend."""

    stop_ids: frozenset[int]
    sampling: Sampling


def generation_defaults(
    weights_dir: Path, tokenizer: "PreTrainedTokenizerBase"
) -> GenerationDefaults:
    """What generation_config.json says, and what the tokenizer has where that says nothing."""
    path = weights_dir / "generation_config.json"
    fields = json.loads(path.read_text()) if path.is_file() else {}
    ends = fields.get("eos_token_id")
    stop_ids = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    known = {
        key: fields[key]
        for key in ("temperature", "top_p", "top_k", "repetition_penalty")
        if fields.get(key) is not None
    }
    return GenerationDefaults(
        frozenset(stop_ids - {None}), replace(Sampling(temperature=1.0), **known)
    )
