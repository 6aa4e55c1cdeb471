"""How long a text a model can read at all."""

import json
from pathlib import Path

_WORDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")


def read_positions(weights_dir: Path) -> int | None:
    """The positions that a model folder's config.json names; None where it names none."""
    try:
        config = json.loads((weights_dir / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    found = [part[word] for part in parts for word in _WORDS if word in part]
    return next((one for one in found if isinstance(one, int) and one > 0), None)
