"""The next token."""

import math
import random
from collections import Counter

import pytest
import torch

from serving.engine import GenerationFailedError, Sampling
from serving.transformers_engine.sampling import Choice, choose

SCORES = [math.log(share) for share in (0.5, 0.3, 0.15, 0.05)]


def draws(rules: Sampling, count: int = 2000) -> Counter[int]:
    choice = Choice(rules, (), random.Random(3))
    return Counter(token_of(torch.tensor([SCORES]), choice) for _ in range(count))


def token_of(logits: torch.Tensor, choice: Choice) -> int:
    (token,) = choose(logits, [choice])
    assert isinstance(token, int)
    return token


def test_temperature_nought_takes_the_likeliest() -> None:
    assert draws(Sampling(), 5) == {0: 5}


def test_temperature_one_draws_by_share() -> None:
    drawn = draws(Sampling(temperature=1))
    shares = [drawn[token] / 2000 for token in range(4)]
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (Sampling(temperature=1, top_k=2), {0, 1}),
        (Sampling(temperature=1, top_p=0.5), {0}),
        (Sampling(temperature=1, top_p=0.51), {0, 1}),
        (Sampling(temperature=1, top_p=0.96), {0, 1, 2, 3}),
        (Sampling(temperature=1, top_k=3, top_p=0.5), {0}),
        (Sampling(temperature=0.01), {0}),
        (Sampling(temperature=1e-300), {0}),
        (Sampling(temperature=1, min_p=0.5), {0, 1}),
        (Sampling(temperature=1, min_p=1), {0}),
        (Sampling(temperature=1, min_p=0.2, top_k=2), {0, 1}),
    ],
)
def test_top_k_and_top_p_limit_what_is_drawn(rules: Sampling, allowed: set[int]) -> None:
    assert set(draws(rules)) == allowed


def test_top_p_looks_beyond_the_likeliest_thousand_when_it_must() -> None:
    choice = Choice(Sampling(temperature=1, top_p=0.99), (), random.Random(1))
    tokens = [token_of(torch.zeros(1, 5000), choice) for _ in range(50)]
    assert len(set(tokens)) > 40


@pytest.mark.parametrize("rules", [Sampling(presence_penalty=2), Sampling(frequency_penalty=2)])
def test_penalties_count_what_was_generated(rules: Sampling) -> None:
    choice = Choice(rules, (0,), random.Random(0))
    assert [choose(torch.tensor([SCORES]), [choice])[0] for _ in range(3)] == [0, 1, 2]


def test_the_repetition_penalty_counts_the_prompt() -> None:
    choice = Choice(Sampling(repetition_penalty=3), (0,), random.Random(0))
    assert choose(torch.tensor([SCORES]), [choice]) == [1]


def test_a_forbidden_token_is_never_chosen() -> None:
    choice = Choice(Sampling(), (), random.Random(0), forbidden_ids=(0, 1))
    assert choose(torch.tensor([SCORES]), [choice]) == [2]


def test_a_rows_fault_is_its_own() -> None:
    def row(*forbidden_ids: int) -> Choice:
        return Choice(Sampling(temperature=1), (), random.Random(9), forbidden_ids=forbidden_ids)

    first, fault, last = choose(torch.tensor([SCORES] * 3), [row(), row(999_999_999), row()])
    assert isinstance(fault, IndexError)
    assert [first] == [last] == choose(torch.tensor([SCORES]), [row()])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_scores_are_no_numbers_ends_and_its_neighbour_goes_on(
    broken: float, temperature: float
) -> None:
    scores = [[broken, *SCORES[1:]], SCORES]
    rows = [Choice(Sampling(temperature=temperature), (), random.Random(9)) for _ in scores]
    fault, token = choose(torch.tensor(scores), rows)
    assert isinstance(fault, GenerationFailedError)
    assert str(fault) == "the scores for its next token are no numbers: the weights are broken"
    assert token in range(len(SCORES))


def test_a_row_draws_the_same_in_any_company() -> None:
    def row() -> Choice:
        return Choice(Sampling(temperature=1), (), random.Random(9))

    alone = choose(torch.tensor([SCORES]), [row()])
    other = Choice(Sampling(temperature=2), (), random.Random(1))
    assert choose(torch.tensor([SCORES, SCORES]), [other, row()])[1:] == alone
