"""Which schemas an answer can be held to; what holds it to one is llguidance's."""

import functools
import threading
from typing import TYPE_CHECKING, Any

from serving.engine import Generation
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
        self._check(_grammar(schema), param="response_format", what="an answer")

    def check_calls(self, grammar: str) -> None:
        """Nothing when answers can be held to a grammar of calls. Raises: ApiError 400."""
        self._check(grammar, param="tools", what="a call")

    def _check(self, grammar: str, *, param: str, what: str) -> None:
        from llguidance import LLMatcher

        with self._lock:
            fault = LLMatcher.validate_grammar(grammar, self._own)
        if fault:
            raise ApiError(
                400,
                f"{param}: {what} cannot be held to this schema ({fault[:200]});"
                " correct or simplify it",
                param=param,
                code="invalid_value",
            )

    def matcher(self, generation: Generation) -> Any:
        """What follows one answer through what it is held to, an `LLMatcher`; None = nothing."""
        from llguidance import LLMatcher

        grammar = _grammar(generation.schema) if generation.schema else generation.grammar
        if grammar is None:
            return None
        with self._lock:
            return LLMatcher(self._own, grammar)

    @functools.cached_property
    def _own(self) -> Any:
        """The tokenizer as llguidance knows it; takes most of a second."""
        from llguidance.hf import from_tokenizer

        size = max(self._vocabulary_tokens, len(self._tokenizer))
        return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._stop_ids or None)


def _grammar(schema: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(schema))
