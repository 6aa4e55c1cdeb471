"""A model's tokenizer, which needs no model and no PyTorch of ours: for servers and the trainer.

Nothing from the network, never code out of a model's folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(weights_dir: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer with its chat template; it always has a padding token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        weights_dir, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
