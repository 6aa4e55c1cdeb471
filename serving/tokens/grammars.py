"""Which schemas an answer can be held to; what holds it to one is llguidance's."""

import functools
import threading
from typing import TYPE_CHECKING, Any

from serving.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Grammars:
    """The grammars of one tokenizer; safe to ask from several threads."""

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

    def matcher(self, schema: str) -> Any:
        """What follows one answer through a schema that was checked, an `LLMatcher`."""
        from llguidance import LLMatcher

        with self._lock:
            return LLMatcher(self._own, _grammar(schema))

    @functools.cached_property
    def _own(self) -> Any:
        """The tokenizer as llguidance knows it; takes most of a second."""
        from llguidance.hf import from_tokenizer

        size = max(self._vocabulary_tokens, len(self._tokenizer))
        return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._stop_ids or None)


def _grammar(schema: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(schema))
