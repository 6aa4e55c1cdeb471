"""How single tokens are written: as text, and as the bytes that they stand for.

A token may be part of a character, which no text shows: then its bytes tell what it is.
"""

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import pre_tokenizers

from serving.engine import Scored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEPT_TOKENS = 65536
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # of tokenizers that fall back to bytes


@dataclass(frozen=True)
class Ranked:
    """The logarithms of probabilities that a token and the likeliest ones had, before any rule."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Spelling:
    """Writes the tokens of one tokenizer; belongs to one thread."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._write = functools.lru_cache(_KEPT_TOKENS)(self._written)

    def scored(self, token_id: int, ranked: Ranked | None) -> Scored:
        """A token with what the model gave it; ranked: None where nothing stands before it."""
        if ranked is None:
            return Scored(token_id, *self._write(token_id), None)
        top = tuple(Scored(one, *self._write(one), logprob) for one, logprob in ranked.top)
        return Scored(token_id, *self._write(token_id), ranked.logprob, top)

    def _written(self, token_id: int) -> tuple[str, bytes]:
        text = str(self._tokenizer.decode([token_id], skip_special_tokens=False))
        if "\ufffd" not in text:
            return text, text.encode()
        raw = _bytes_of(str(self._tokenizer.convert_ids_to_tokens(token_id)))
        return text, text.encode() if raw is None else raw


def _bytes_of(token: str) -> bytes | None:
    """The bytes that a vocabulary's entry stands for, where it is written by bytes."""
    if found := _BYTE.fullmatch(token):
        return bytes.fromhex(found.group(1))
    letters = _byte_letters()
    if all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return None


@functools.cache
def _byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in vocabularies of byte-level tokenizers."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    own = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    missing = [byte for byte in range(256) if byte not in own.values()]
    others = sorted(letter for letter in letters if ord(letter) >= 256)
    return own | dict(zip(others, missing, strict=True))
