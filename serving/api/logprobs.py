"""Probabilities of tokens, as OpenAI's endpoints write them."""

from collections.abc import Sequence
from typing import Any

from serving.engine import Scored


def chat_logprobs(scored: Sequence[Scored]) -> dict[str, Any] | None:
    """The probabilities of a chat completion's tokens; None where none were asked for."""
    if not scored:
        return None
    return {"content": token_logprobs(scored), "refusal": None}


def token_logprobs(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Each token with its probability and those of the likeliest in its place."""
    return [_chat(each) | {"top_logprobs": [_chat(one) for one in each.top]} for each in scored]


def _chat(token: Scored) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


def text_logprobs(scored: Sequence[Scored], *, offset: int) -> dict[str, Any] | None:
    """The probabilities of a text completion's tokens; the first begins at `offset` of its text."""
    if not scored:
        return None
    offsets = [offset]
    for each in scored:
        offsets.append(offsets[-1] + len(each.text))
    return {
        "tokens": [each.text for each in scored],
        "token_logprobs": [each.logprob for each in scored],
        "top_logprobs": [_top(each) for each in scored],
        "text_offset": offsets[:-1],
    }


def _top(token: Scored) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    # Tokens of one text share a place: the likeliest has it, and before all the token itself.
    likeliest = {one.text: one.logprob for one in reversed(token.top)}
    return likeliest | {token.text: token.logprob}
