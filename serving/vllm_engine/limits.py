"""What vLLM does not compute, refused by name before it is asked. Pure.

Some of it would end what generates, for everybody: it checks these sizes where it computes
(`vllm/v1/worker/gpu/sample/logit_bias.py` of 0.33), and not where it reads a request.
"""

from collections.abc import Iterator, Mapping

from serving.engine import Generation
from serving.errors import ApiError

MOST_ENTRIES = {
    "allowed_token_ids": 1024,
    "logit_bias": 1024,
    "stop_token_ids": 120,  # beside the model's own, and where min_tokens withholds them
    "bad_words": 128,  # VLLM_MAX_NUM_BAD_WORDS; each form of a word is one
}
NOT_BESIDE_GUESSING = ("min_p", "logit_bias")
_GUESSING = ("speculative-config", "spec-method", "spec-model", "spec-tokens")


def guesses_ahead(flags: Mapping[str, str | None]) -> bool:
    """Whether vLLM is started with one of the flags of speculative decoding."""
    return any(name.partition(".")[0] in _GUESSING for name in flags)


def expect_computed(generation: Generation, *, guesses: bool) -> None:
    """Nothing, if vLLM computes what is asked for; guesses: it guesses tokens ahead.

    Raises: ApiError 400, naming the option.
    """
    for name, why in _refused(generation, guesses=guesses):
        raise ApiError(
            400,
            f"{name} was asked for, {why}; leave it out or ask for less",
            param=name,
            code="unsupported_parameter",
        )


def _refused(generation: Generation, *, guesses: bool) -> Iterator[tuple[str, str]]:
    rules, stops = generation.sampling, generation.stop_token_ids
    sizes = {
        "allowed_token_ids": len(rules.allowed_token_ids or ()),
        "logit_bias": len(rules.logit_bias),
        "stop_token_ids": len(stops) if generation.min_tokens else 0,
        "bad_words": len(rules.bad_words),
    }
    for name, most in MOST_ENTRIES.items():
        if sizes[name] > most:
            yield name, f"with {sizes[name]} entries, and this server's engine takes {most}"
    for name in NOT_BESIDE_GUESSING if guesses else ():
        if getattr(rules, name):
            why = "this server guesses tokens ahead (speculative decoding), which does not go with"
            yield name, f"{why} it"
