"""Writes beside the adapter what the model answers now, so that a server can tell if it differs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tasks.contract.as_trained import FILE, LIKELIEST, PROMPTS, AsTrained, Seen
from tasks.tuning.pod.adapter import write_json
from tasks.tuning.pod.data import Question, encode_question
from tasks.tuning.pod.heldout import evaluating


def keep_as_trained(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    adapter: Path,
    base_model: str,
    base_revision: str,
    dtype: torch.dtype,
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Ask the model, with its adapter on, and write what it answers.

    Args: dtype: that it computes in. computing: a context in which it does.
    """
    with evaluating(model), torch.no_grad(), computing():
        seen = tuple(_seen(model, tokenizer, prompt) for prompt in PROMPTS)
    template = str(tokenizer.chat_template or "")
    trained = AsTrained(
        base_model=base_model,
        base_revision=base_revision,
        dtype=str(dtype).removeprefix("torch."),
        is_chat=bool(template),
        is_dated="strftime_now" in template,
        text_ids=tuple(tuple(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS),
        seen=seen,
    )
    write_json(adapter / FILE, trained.written())


def _seen(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Seen:
    ids = _ids(tokenizer, prompt)
    scores = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    logprobs = torch.log_softmax(scores[0, -1].float(), -1)
    values, tokens = logprobs.topk(LIKELIEST)
    likeliest = zip(tokens.tolist(), (round(value, 4) for value in values.tolist()), strict=True)
    return Seen(prompt=prompt, ids=tuple(ids), likeliest=tuple(likeliest))


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Sequence[int]:
    if tokenizer.chat_template:
        return encode_question(Question([{"role": "user", "content": prompt}]), tokenizer)
    ids: Sequence[int] = tokenizer(prompt)["input_ids"]
    return ids
