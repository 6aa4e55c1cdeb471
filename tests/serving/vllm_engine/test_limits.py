"""What vLLM does not compute is refused by name before it is asked."""

from typing import Any

import pytest

from serving.engine import Generation, Sampling
from serving.errors import ApiError
from serving.vllm_engine.limits import expect_computed, guesses_ahead


def asked(**fields: Any) -> Generation:
    return Generation(model="m", prompt_ids=[1], max_tokens=9, **fields)


@pytest.mark.parametrize(
    ("generation", "name"),
    [
        (asked(sampling=Sampling(allowed_token_ids=tuple(range(1025)))), "allowed_token_ids"),
        (asked(stop_token_ids=frozenset(range(121)), min_tokens=1), "stop_token_ids"),
        (asked(sampling=Sampling(bad_words=tuple((each,) for each in range(129)))), "bad_words"),
    ],
)
def test_more_than_it_has_room_for_is_refused_by_name(generation: Generation, name: str) -> None:
    with pytest.raises(ApiError, match=f"^{name} was asked for, with") as refused:
        expect_computed(generation, guesses=False)
    assert (refused.value.status, refused.value.param) == (400, name)


@pytest.mark.parametrize(
    ("rules", "name"), [(Sampling(min_p=0.1), "min_p"), (Sampling(logit_bias={1: 2}), "logit_bias")]
)
def test_what_does_not_go_with_guessing_ahead_is_refused(rules: Sampling, name: str) -> None:
    expect_computed(asked(sampling=rules), guesses=False)
    expect_computed(asked(), guesses=True)
    with pytest.raises(ApiError, match=f"^{name} was asked for, this server guesses"):
        expect_computed(asked(sampling=rules), guesses=True)


def test_it_guesses_where_a_flag_asks_for_it() -> None:
    assert guesses_ahead({"speculative-config": "{}"})
    assert guesses_ahead({"spec-method": "ngram"})
    assert not guesses_ahead({"max-model-len": "1"})
