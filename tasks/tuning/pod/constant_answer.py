"""What is lost by who gives one answer to every question, which an adapter has to beat. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

Answer = Sequence[int]


def constant_answer_losses(
    learned: Sequence[Answer], asked: Sequence[Answer], *, vocabulary: int
) -> list[float]:
    """The loss of each asked answer, in nats, summed over its tokens, for who ignores the question.

    Such a one knows only how often each answer was learned: of N answers, n that are this one, it
    is as likely as (n + P) / (N + 1), where P is how likely its tokens are one by one, each of them
    counted once more than it was learned (Blackwell and MacQueen 1973, with a base measure of
    weight one). So of a few short labels their frequencies count, and of free text its words.
    """
    answers = Counter(map(tuple, learned))
    tokens = Counter(chain.from_iterable(learned))
    places = math.log(tokens.total() + vocabulary)

    def loss(answer: Answer) -> float:
        by_tokens = sum(math.log(tokens[token] + 1) - places for token in answer)
        times = answers[tuple(answer)]
        likely = math.log(times + math.exp(by_tokens)) if times else by_tokens
        return math.log(len(learned) + 1) - likely

    return [loss(answer) for answer in asked]


def right_by_one_answer(learned: Sequence[Answer], asked: Sequence[Answer]) -> int:
    """How many of the asked answers are the one that was learned most often."""
    answers = Counter(map(tuple, learned))
    most = max(answers.values(), default=0)
    common = {answer for answer, times in answers.items() if times == most}
    return max((sum(tuple(one) == answer for one in asked) for answer in common), default=0)
