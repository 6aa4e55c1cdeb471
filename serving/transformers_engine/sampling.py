"""The next token of each row, from the scores of a step."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from serving.engine import GenerationFailedError, Sampling
from serving.tokens.spelling import Ranked
from serving.transformers_engine.grammar import Held

# Sorting a whole vocabulary at every step costs more than a small model's step; the likeliest
# thousand nearly always hold what top_p asks for, and where they do not, all are sorted.
_CANDIDATES = 1024
# Below, chance has no say, and scores divided by it are no numbers any more.
_COLDEST = 1e-4
_NO_NUMBERS = "the scores for its next token are no numbers: the weights are broken"


@dataclass
class Choice:
    """One row's rules, its own source of randomness, and what was generated so far.

    The source is the row's own, so that a seed gives the same text whatever else is in the batch.
    top_logprobs: how many of the likeliest tokens `ranked` has of the last choice; None = it has
    nothing.
    """

    rules: Sampling
    prompt_ids: Sequence[int]
    random: random.Random
    generated: Counter[int] = field(default_factory=Counter)
    said: list[int] = field(default_factory=list)
    forbidden_ids: Sequence[int] = ()
    top_logprobs: int | None = None
    ranked: Ranked | None = None
    held: Held | None = None


def choose(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | Exception]:
    """One token id a row, or what went wrong at this row and is no other's concern.

    logits [rows, vocabulary] are changed in place.
    """
    faults: dict[int, Exception] = {}
    told = [row for row, choice in enumerate(choices) if choice.top_logprobs is not None]
    logprobs = torch.log_softmax(logits[told].float(), -1) if told else logits[:0]
    for row, (scores, choice) in enumerate(zip(logits, choices, strict=True)):
        with _kept(faults, row):
            _penalise(scores, choice)
    likeliest = logits.argmax(-1)  # NaN, in a row that has one
    tokens: list[int] = likeliest.tolist()
    for row, score in enumerate(logits.gather(-1, likeliest[:, None])[:, 0].tolist()):
        if math.isnan(score) or score == math.inf:
            faults.setdefault(row, GenerationFailedError(_NO_NUMBERS))
    sampled = [row for row, choice in enumerate(choices) if choice.rules.temperature > _COLDEST]
    if sampled:
        for row, scores in zip(sampled, logits[sampled].float().cpu(), strict=True):
            with _kept(faults, row):
                tokens[row] = _draw(scores, choices[row])
    for token, choice in zip(tokens, choices, strict=True):
        choice.generated[token] += 1
        choice.said.append(token)
    for row, (token, choice) in enumerate(zip(tokens, choices, strict=True)):
        if choice.held and row not in faults:
            with _kept(faults, row):
                choice.held.take(token)
    for row, own in zip(told, logprobs, strict=True):
        (choices[row].ranked,) = rank(
            [tokens[row]], own[None], count=choices[row].top_logprobs or 0
        )
    return [faults.get(row, token) for row, token in enumerate(tokens)]


def rank(tokens: Sequence[int], logprobs: torch.Tensor, *, count: int) -> list[Ranked]:
    """What each token had, and the likeliest in its place; logprobs [tokens, vocabulary]."""
    ids = torch.tensor(tokens, device=logprobs.device)
    own = logprobs.gather(-1, ids[:, None])[:, 0].tolist()
    likeliest = logprobs.topk(min(count, logprobs.shape[-1]), -1)
    rows = zip(own, likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return [Ranked(one, tuple(zip(top, values, strict=True))) for one, top, values in rows]


@contextmanager
def _kept(faults: dict[int, Exception], row: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the other rows go on
        faults[row] = error


def _penalise(scores: torch.Tensor, choice: Choice) -> None:
    rules = choice.rules
    if rules.logit_bias:
        values = torch.tensor(list(rules.logit_bias.values()), device=scores.device)
        scores[list(rules.logit_bias)] += values.to(scores.dtype)
    if rules.allowed_token_ids is not None:
        allowed = list(rules.allowed_token_ids)
        kept = scores[allowed]
        scores.fill_(-math.inf)
        scores[allowed] = kept
    forbidden = [*choice.forbidden_ids, *_ends_of_bad_words(choice)]
    if forbidden:
        scores[forbidden] = -math.inf
    if rules.repetition_penalty != 1.0:
        seen = list({*choice.prompt_ids, *choice.generated})
        before = scores[seen]
        factor = rules.repetition_penalty
        scores[seen] = torch.where(before > 0, before / factor, before * factor)
    if choice.generated and (rules.presence_penalty or rules.frequency_penalty):
        ids = list(choice.generated)
        counts = torch.tensor(list(choice.generated.values()), device=scores.device)
        penalty = rules.presence_penalty + rules.frequency_penalty * counts
        scores[ids] -= penalty.to(scores.dtype)
    if choice.held:
        choice.held.mask(scores)


def _ends_of_bad_words(choice: Choice) -> Iterable[int]:
    """The tokens that would complete one."""
    for word in choice.rules.bad_words:
        begun = list(word[:-1])
        if not begun or choice.said[-len(begun) :] == begun:
            yield word[-1]


def _draw(scores: torch.Tensor, choice: Choice) -> int:
    """A token by chance, after temperature, min_p, top_k and top_p in this order; on the CPU."""
    rules = choice.rules
    scaled = scores.double() / rules.temperature
    if rules.min_p > 0:
        scaled[scaled < scaled.max() + math.log(rules.min_p)] = -math.inf
    if rules.top_k == 0 and rules.top_p >= 1:
        return _pick(torch.softmax(scaled, -1), choice.random)
    limit = min(rules.top_k or _CANDIDATES, len(scaled))
    values, ids = torch.topk(scaled, limit)
    total = values.logsumexp(-1) if rules.top_k else scaled.logsumexp(-1)
    probabilities = (values - total).exp()
    if not rules.top_k and probabilities.sum() < rules.top_p:
        values, ids = scaled.sort(descending=True)
        probabilities = (values - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities[before < rules.top_p] if rules.top_p < 1 else probabilities
    return int(ids[_pick(kept, choice.random)])


def _pick(probabilities: torch.Tensor, source: random.Random) -> int:
    """An index by its share of the sum."""
    cumulative = probabilities.cumsum(-1)
    point = source.random() * cumulative[-1]
    return min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)
