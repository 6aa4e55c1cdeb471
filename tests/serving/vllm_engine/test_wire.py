"""A continuation as vLLM's API has it, and what its stream says."""

import json
import math
from typing import Any

import pytest

from serving.engine import Generation, GenerationFailedError, Sampling
from serving.tokens.spelling import Ranked
from serving.vllm_engine.wire import Events, Step, body, step_of


def asked(generation: Generation, *, turn: int = 0) -> dict[str, Any]:
    def decode(ids: Any) -> str:
        return "".join(f" w{each}" for each in ids)

    return body(generation, model="m", turn=turn, stop_ids=frozenset({2, 1}), decode=decode)


def test_all_that_ends_a_text_is_named_and_vllm_adds_nothing() -> None:
    told = asked(Generation(model="m", prompt_ids=[5, 6], max_tokens=3))
    assert (told["stop_token_ids"], told["ignore_eos"]) == ([1, 2], True)
    assert (told["prompt"], told["max_tokens"], told["stream"]) == ([5, 6], 3, True)
    assert not {"seed", "logprobs", "echo", "structured_outputs", "bad_words"} & set(told)


def test_each_continuation_has_a_seed_of_its_own() -> None:
    seeded = Generation(model="m", prompt_ids=[5], max_tokens=3, n=2, sampling=Sampling(seed=7))
    assert [asked(seeded, turn=turn)["seed"] for turn in (0, 1)] == [7, 8]


def test_rules_of_sampling_go_with_it_by_vllms_names() -> None:
    rules = Sampling(
        temperature=0.5,
        min_p=0.1,
        logit_bias={4: -1.5},
        allowed_token_ids=(3, 4),
        bad_words=((7,), (8, 9)),
        repetition_penalty=1.1,
    )
    told = asked(Generation(model="m", prompt_ids=[5], max_tokens=3, sampling=rules))
    assert (told["temperature"], told["min_p"], told["repetition_penalty"]) == (0.5, 0.1, 1.1)
    assert (told["logit_bias"], told["allowed_token_ids"]) == ({"4": -1.5}, [3, 4])
    assert told["bad_words"] == ["w7", "w8 w9"]


def test_a_temperature_that_is_all_but_nought_is_nought() -> None:
    cold = Sampling(temperature=1e-5)
    told = asked(Generation(model="m", prompt_ids=[5], max_tokens=3, sampling=cold))
    assert told["temperature"] == 0


def test_a_prompts_probabilities_come_by_its_echo() -> None:
    scored = Generation(model="m", prompt_ids=[5], max_tokens=3, top_logprobs=2, scores_prompt=True)
    told = asked(scored)
    assert (told["logprobs"], told["echo"], told["return_tokens_as_token_ids"]) == (2, True, True)


def event(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "", "finish_reason": None} | choice]}


def test_a_step_is_tokens_and_why_they_end() -> None:
    assert step_of(event(token_ids=[4, 5])) == Step((4, 5))
    assert step_of(event(token_ids=[], finish_reason="length")) == Step((), finish="length")
    assert step_of({"choices": [], "usage": {}}) == Step(())


def test_probabilities_of_prompt_and_answer_are_told_apart() -> None:
    logprobs = {
        "token_logprobs": [None, -1.0, -3.0],
        "top_logprobs": [
            None,
            {"token_id:6": -1.0, "token_id:9": -0.5},
            {"token_id:7": -3.0, "token_id:8": -0.1},
        ],
        "tokens": ["token_id:5", "token_id:6", "token_id:7"],
        "text_offset": [0, 0, 0],
    }
    step = step_of(event(token_ids=[7], prompt_token_ids=[5, 6], logprobs=logprobs))
    assert step.prompt == (None, Ranked(-1.0, ((9, -0.5), (6, -1.0))))
    assert step.ranked == (Ranked(-3.0, ((8, -0.1), (7, -3.0))),)


def test_what_is_no_number_is_told_as_none() -> None:
    logprobs = {"token_logprobs": [None], "top_logprobs": [{"token_id:7": None}]}
    (ranked,) = step_of(event(token_ids=[7], logprobs=logprobs)).ranked
    assert ranked
    assert math.isnan(ranked.logprob)


@pytest.mark.parametrize("error", [{"message": "out of luck", "code": 500}, "out of luck"])
def test_an_error_in_a_stream_is_told_in_vllms_words(error: Any) -> None:
    with pytest.raises(GenerationFailedError, match="out of luck"):
        step_of({"error": error})


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_read_however_their_bytes_come(size: int) -> None:
    told = [event(token_ids=[number], text="ä\n") for number in range(3)]
    lines = [f"data: {json.dumps(each)}\n\n".encode() for each in told]
    data, events, read = b"".join([*lines, b"data: [DONE]\n\n"]), Events(), list[Any]()
    for at in range(0, len(data), size):
        read += events.read(data[at : at + size])
    assert read == told
    assert events.is_done
