"""One continuation as vLLM's /v1/completions takes it, and what its stream says. Pure.

The fields and events are vLLM's (`vllm/entrypoints/openai/completion/protocol.py` of 0.33).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.engine import Generation, GenerationFailedError
from serving.tokens.spelling import Ranked

_TOKEN = "token_id:"  # noqa: S105 - before the number of a token that is told
# Below, chance has no say; vLLM would raise it to 0.01 instead.
_COLDEST = 1e-4


@dataclass(frozen=True)
class Step:
    """What one event adds: tokens, with what they were given where that was asked for.

    prompt: what the prompt's tokens were given; its first has nothing before it.
    finish: why it ended: `stop`, `length`, or a word of vLLM's for an end of another kind.
    """

    tokens: tuple[int, ...]
    ranked: tuple[Ranked | None, ...] = ()
    prompt: tuple[Ranked | None, ...] = ()
    finish: str | None = None


def body(
    generation: Generation,
    *,
    model: str,
    turn: int,
    stop_ids: frozenset[int],
    decode: Callable[[Sequence[int]], str],
) -> dict[str, Any]:
    """The request of one continuation.

    model: as vLLM knows it. turn: which of the request's continuations. stop_ids: all that end it.
    decode: the text of tokens, since vLLM takes bad words as texts.
    """
    rules = generation.sampling
    asked: dict[str, Any] = {
        "model": model,
        "prompt": list(generation.prompt_ids),
        "stream": True,
        "return_token_ids": True,
        "max_tokens": generation.max_tokens,
        "min_tokens": generation.min_tokens,
        "stop": list(generation.stop),
        # All of them are named, and vLLM adds none of its own.
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,
        "include_stop_str_in_output": generation.shows_stop,
        "skip_special_tokens": not generation.shows_special,
        "temperature": rules.temperature if rules.temperature > _COLDEST else 0.0,
        "top_p": rules.top_p,
        "top_k": rules.top_k,
        "min_p": rules.min_p,
        "repetition_penalty": rules.repetition_penalty,
        "presence_penalty": rules.presence_penalty,
        "frequency_penalty": rules.frequency_penalty,
    }
    if rules.seed is not None:
        asked["seed"] = rules.seed + turn
    if rules.logit_bias:
        asked["logit_bias"] = {str(token): bias for token, bias in rules.logit_bias.items()}
    if rules.allowed_token_ids is not None:
        asked["allowed_token_ids"] = list(rules.allowed_token_ids)
    if rules.bad_words:
        # It puts a space before each by itself.
        asked["bad_words"] = sorted({decode(word).lstrip() for word in rules.bad_words} - {""})
    if generation.schema is not None:
        asked["structured_outputs"] = {"json": generation.schema}
    elif generation.grammar is not None:
        asked["structured_outputs"] = {"grammar": generation.grammar}
    if generation.top_logprobs is not None:
        asked |= {"logprobs": generation.top_logprobs, "return_tokens_as_token_ids": True}
        if generation.scores_prompt:
            asked["echo"] = True
    return asked


def likeliness(prompt_ids: Sequence[int], tokens: Sequence[int], *, model: str) -> dict[str, Any]:
    """The request by which the log probabilities of these tokens behind a prompt are told."""
    return {
        "model": model,
        "prompt": list(prompt_ids),
        "stream": True,
        "return_token_ids": True,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
    } | ({"logprob_token_ids": list(tokens)} if tokens else {})


@dataclass
class Events:
    """The events of a stream, while its bytes come in; is_done: the last one was there."""

    is_done: bool = False
    _rest: bytes = field(default=b"")

    def read(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """The events that are whole with these bytes. Raises: ValueError: they are none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            told = line.removeprefix(b"data:").strip()
            if told == b"[DONE]":
                self.is_done = True
            elif told:
                yield json.loads(told)


def step_of(event: Mapping[str, Any]) -> Step:
    """What an event adds. Raises: GenerationFailedError, in vLLM's words; KeyError: it is none."""
    if fault := event.get("error"):
        raise GenerationFailedError(fault_told(fault))
    if not event["choices"]:
        return Step(())
    (choice,) = event["choices"]
    tokens = tuple(choice.get("token_ids") or ())
    told = choice.get("logprobs")
    ranked = tuple(_ranked(told)) if told else ()
    before = len(ranked) - len(tokens) if ranked else 0
    return Step(tokens, ranked[before:], ranked[:before], choice.get("finish_reason"))


def fault_told(fault: Any) -> str:
    """What an error says, in either of the shapes that vLLM writes."""
    return str(fault.get("message", fault)) if isinstance(fault, Mapping) else str(fault)


def _ranked(told: Mapping[str, Any]) -> Iterator[Ranked | None]:
    for logprob, top in zip(told["token_logprobs"], told["top_logprobs"], strict=True):
        if logprob is None and top is None:
            yield None  # of a prompt's first token
        else:
            pairs = [(_token(name), _number(value)) for name, value in (top or {}).items()]
            # The chosen token is told before the likeliest, whether it is one of them or not.
            pairs.sort(key=lambda pair: -pair[1])
            yield Ranked(_number(logprob), tuple(pairs))


def _number(value: float | None) -> float:
    """What JSON has no word for, it tells as null."""
    return math.nan if value is None else value


def _token(name: str) -> int:
    return int(name.removeprefix(_TOKEN))
