"""Answers that are JSON of a schema: which tokens may come next is llguidance's to say."""

import functools
import threading
from typing import TYPE_CHECKING, Any

import torch

from serving.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Grammars:
    """Makes what holds answers to a schema, for one tokenizer; safe to ask from several threads."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        vocabulary_tokens: int,
        stop_ids: frozenset[int],
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._vocabulary_tokens = vocabulary_tokens
        self._stop_ids = sorted(stop_ids)
        self._lock = threading.Lock()

    def check(self, schema: str) -> None:
        """Nothing when answers can be held to the schema. Raises: ApiError 400, with the reason."""
        from llguidance import LLMatcher

        with self._lock:
            fault = LLMatcher.validate_grammar(_grammar(schema), self._own)
        if fault:
            raise ApiError(
                400,
                f"response_format: an answer cannot be held to this schema ({fault[:200]});"
                " correct or simplify it",
                param="response_format",
                code="invalid_value",
            )

    def held_to(self, schema: str) -> "Held":
        """What holds one answer to a schema that was checked."""
        from llguidance import LLMatcher

        with self._lock:
            return Held(LLMatcher(self._own, _grammar(schema)))

    @functools.cached_property
    def _own(self) -> Any:
        """The tokenizer as llguidance knows it; takes most of a second."""
        from llguidance.hf import from_tokenizer

        size = max(self._vocabulary_tokens, len(self._tokenizer))
        return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._stop_ids or None)


class Held:
    """One answer and where it stands in its schema."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, scores: torch.Tensor) -> None:
        """Leave those tokens that may come next; scores [vocabulary] are changed in place."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        allowed = bits.flatten()[: len(scores)].bool()
        scores.masked_fill_(~allowed.to(scores.device), -torch.inf)

    def take(self, token: int) -> None:
        """Go on behind a token. Raises: ValueError: it may not come there."""
        if not self._matcher.consume_token(token):
            raise ValueError(self._matcher.get_error() or "a token that the schema does not take")


def _grammar(schema: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(schema))
