"""Whether an adapter answers here as it did where it was tuned.

A template, a tokenizer, base weights or numbers that are others change every answer, and none of
them looks wrong. Asked after each load, of what the trainer left beside the adapter.
"""

import logging
from collections.abc import Mapping, Sequence

from serving.tokens.prompts import Prompts
from tasks.contract.as_trained import FILE, AsTrained, read_as_trained
from tasks.contract.errors import AdapterInvalid, ServedDiffers
from tasks.contract.programs.serving import AdapterSource

log = logging.getLogger(__name__)

# How far log probabilities may lie apart in the mean of all prompts, by the coarser of both number
# formats. Seen with SmolLM2: the same weights 0.000, 0.006 and 0.074 at most in these formats,
# without its adapter 0.29, with another one 0.48, with 3 % of noise on the base 0.34.
_TOLERANCES = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.25}
_COARSEST = "bfloat16"


def as_trained_of(source: AdapterSource) -> AsTrained | None:
    """What was kept of the adapter, if anything was. Raises: AdapterInvalid."""
    try:
        return read_as_trained(source.path)
    except (OSError, ValueError) as error:
        raise AdapterInvalid(
            f"adapter {source.name} brings {FILE}, which says what it answers",
            f"it cannot be read ({(str(error).splitlines() or [''])[0]})",
            f"copy the adapter whole again, or leave {FILE} out",
        ) from error


def expect_same_ids(source: AdapterSource, trained: AsTrained, prompts: Prompts) -> None:
    """Nothing if prompts become the tokens that they were. Raises: ServedDiffers."""
    for seen, ids in zip(trained.seen, trained.text_ids, strict=True):
        if tuple(prompts.encode_text(seen.prompt)) != ids:
            raise _differs(source, f"the tokenizer: {seen.prompt!r} is other tokens than it was")
    if not trained.is_chat or trained.is_dated:
        return
    if not prompts.has_chat_template(source.name):
        raise _differs(source, "the chat template: there is none")
    for seen in trained.seen:
        messages = [{"role": "user", "content": seen.prompt}]
        if tuple(prompts.encode_chat(messages, model=source.name)) != seen.ids:
            found = f"the chat template: {seen.prompt!r} is rendered otherwise than it was"
            raise _differs(source, found)


def expect_same_scores(
    source: AdapterSource,
    trained: AsTrained,
    logprobs: Sequence[Mapping[int, float]],
    *,
    dtype: str,
) -> None:
    """Nothing if the tokens that were likely are as likely here, or strength is not whole.

    Args: logprobs: behind the very ids of each prompt of `trained`, of the tokens that were likely.
    Raises: ServedDiffers.
    """
    if source.strength != 1.0:
        return
    apart = distance(trained, logprobs)
    dtypes = {trained.dtype, dtype}
    allowed = max(_TOLERANCES.get(each, _TOLERANCES[_COARSEST]) for each in dtypes)
    log.info("as trained adapter=%s apart=%.4f allowed=%.2f", source.name, apart, allowed)
    if apart <= allowed:
        return
    base = f"{trained.base_model}@{trained.base_revision}"
    place = f"the weights, of the base ({base} there) or of the adapter"
    if len(dtypes) > 1:
        place += f", or the number format ({trained.dtype} there, {dtype} here)"
    raise _differs(
        source,
        f"{place}: log probabilities of the next token are {apart:.2f} apart in the mean, and may"
        f" be {allowed:.2f}",
    )


def distance(trained: AsTrained, logprobs: Sequence[Mapping[int, float]]) -> float:
    """The mean distance of the log probabilities that the likeliest tokens had and have."""
    apart = [
        abs(here[token] - there)
        for here, seen in zip(logprobs, trained.seen, strict=True)
        for token, there in seen.likeliest
    ]
    return sum(apart) / len(apart)


def _differs(source: AdapterSource, place: str) -> ServedDiffers:
    return ServedDiffers(
        f"adapter {source.name} was asked what it was asked where it was tuned",
        f"it would be served otherwise, by {place}",
        "serve it as it was tuned, or tune it again over what is here;"
        f" without its {FILE} nothing is compared",
    )
