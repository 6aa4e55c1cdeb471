"""What tuning changed, on rows that were not trained on: the loss on their answers, and samples.

Both sides come from one model in memory, the adapter switched off and on.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from serving.model.loading import load_base_model, preferred_dtype
from tasks.contract.comparison import compare as compare_losses
from tasks.contract.gate import Metric
from tasks.estimate import GIB, serving_memory_gib
from tasks.tuning.pod.constant_answer import constant_answer_losses, right_by_one_answer
from tasks.tuning.pod.data import (
    NO_LOSS,
    Example,
    Question,
    Row,
    answer_of,
    encode_question,
    find_end_ids,
    question_of,
)
from tasks.tuning.pod.memory import available_memory_gib, free_gpu_gib, read_shape

_SAMPLE_TOKENS = 64
# Answers generated together cost little more than one: the weights are read once a token.
_QUESTIONS = 4

Computing = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Answer:
    """Generated text; stopped: by an end token, not by the limit."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Score:
    """The loss on all tokens of an answer, in nats, and whether each of them is the likeliest."""

    loss: float
    is_right: bool


def compare(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: Sequence[Row],
    examples: Sequence[Example],
    learned: Sequence[Example],
    base: str,
    computing: Computing = nullcontext,
) -> dict[str, Any]:
    """The outcome's `held_out`, as `HeldOut` has it.

    sample: question, reference, before, after, stopped_before, stopped_after; None where no row is
    a single question. answers: how many of the few generated ones stopped by themselves.

    Args: model: with the adapter on. learned: what it was trained on. base: what its weights are,
    in words. computing: a context in which it computes in its number format.
    """
    asked = [(question, row) for row in rows if (question := question_of(row)) is not None]
    asked = asked[:_QUESTIONS]
    questions = [question for question, _ in asked]
    with evaluating(model), computing():
        found = [score(model, one) for one in examples]
        after = generate(model, tokenizer, questions)
        with model.disable_adapter():
            losses_before = [score(model, one).loss for one in examples]
            before = generate(model, tokenizer, questions)
    return {
        **_figures(losses_before, [one.loss for one in found], examples),
        **_one_answer(learned, examples, vocabulary=len(tokenizer)),
        "right_after": sum(one.is_right for one in found),
        "base": base,
        "sample": _sample(asked[0], before[0], after[0]) if asked else None,
        "answers": {
            "asked": len(asked),
            "stopped_before": sum(answer.stopped for answer in before),
            "stopped_after": sum(answer.stopped for answer in after),
        },
    }


def _figures(
    before: Sequence[float], after: Sequence[float], examples: Sequence[Example]
) -> dict[str, Any]:
    """The mean losses over all answer tokens, and how sure their difference is."""
    tokens = [float(one.answer_tokens) for one in examples]
    found = compare_losses(
        *(
            [loss / count for loss, count in zip(side, tokens, strict=True)]
            for side in (after, before)
        ),
        metric=Metric.LOSS,
        weights=tokens,
    )
    has_interval = len(examples) > 1
    return {
        "rows": len(examples),
        "loss_before": round(found.reference, 4),
        "loss_after": round(found.candidate, 4),
        "gain_low": round(found.sure_gain, 4) if has_interval else None,
        "gain_high": round(found.most_gain, 4) if has_interval else None,
    }


def _one_answer(
    learned: Sequence[Example], examples: Sequence[Example], *, vocabulary: int
) -> dict[str, Any]:
    """What one answer to every question comes to."""
    known, asked = ([_answer_ids(one) for one in side] for side in (learned, examples))
    losses = constant_answer_losses(known, asked, vocabulary=vocabulary)
    return {
        "loss_constant": round(sum(losses) / sum(one.answer_tokens for one in examples), 4),
        "right_constant": right_by_one_answer(known, asked),
    }


def _answer_ids(example: Example) -> list[int]:
    return [label for label in example.labels[1:] if label != NO_LOSS]


def score(model: Any, example: Example) -> Score:
    """How likely an example's answer tokens are; logits are computed at these alone."""
    ids = torch.tensor([example.input_ids], device=model.device)
    labels = torch.tensor(example.labels[1:], device=model.device)
    places = (labels != NO_LOSS).nonzero()[:, 0]
    takes_places = "logits_to_keep" in inspect.signature(_forward_of(model)).parameters
    with torch.no_grad():
        asked = {"logits_to_keep": places} if takes_places else {}
        logits = model(input_ids=ids, use_cache=False, **asked).logits[0]
    scored, expected = logits if takes_places else logits[places], labels[places]
    loss = float(cross_entropy(scored.float(), expected, reduction="sum"))
    return Score(loss, is_right=bool((scored.argmax(-1) == expected).all()))


def _forward_of(model: Any) -> Any:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.forward


def served_model(adapter: Path, weights_dir: Path, *, device: str) -> Any:
    """The base model in the number format that it is served in, with the adapter."""
    base = load_base_model(weights_dir, dtype=preferred_dtype(device), device=device)
    return PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).eval()


def lacks_memory_to_serve(weights_dir: Path, *, device: str) -> str:
    """Why the base model does not fit as it is served, once the trainer's is gone; "" = it does."""
    parameters = read_shape(weights_dir).parameters
    weights_gib = parameters * preferred_dtype(device).itemsize / GIB
    needed_gib = serving_memory_gib(weights_gib=weights_gib, kv_bytes_per_token=0, context_tokens=0)
    free_gib = available_memory_gib()
    if device != "cpu":
        free_gib = free_gpu_gib() + torch.cuda.memory_reserved() / GIB
    return "" if needed_gib <= free_gib else f"{needed_gib:.1f} GiB needed, {free_gib:.1f} GiB free"


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question | str],
    *,
    max_new_tokens: int = _SAMPLE_TOKENS,
) -> list[Answer]:
    """Greedy answers to the questions, generated together."""
    if not questions:
        return []
    prompts = [encode_question(question, tokenizer) for question in questions]
    width = max(len(prompt) for prompt in prompts)
    ends = find_end_ids(tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    ids = torch.tensor([[padding] * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    with torch.no_grad():
        generated = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=padding,
        )
    return [_answer(one[width:].tolist(), tokenizer, ends) for one in generated]


def _answer(ids: list[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> Answer:
    length = next((at for at, token_id in enumerate(ids) if token_id in ends), None)
    text = str(tokenizer.decode(ids[:length], skip_special_tokens=True)).strip()
    return Answer(text, stopped=length is not None)


def _sample(asked: tuple[Question | str, Row], before: Answer, after: Answer) -> dict[str, Any]:
    question, row = asked
    return {
        "question": question if isinstance(question, str) else question.messages[-1]["content"],
        "reference": answer_of(row),
        "before": before.text,
        "after": after.text,
        "stopped_before": before.stopped,
        "stopped_after": after.stopped,
    }


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Have a model answer as it would be served, and go on as it was afterwards."""
    was_training = model.training
    model.eval()
    # Left on by recomputed activations, it would forbid the cache that generation lives on.
    if getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()
    # While a mixture of experts generates, the routers' logits are of one token, the mask of all.
    text_config = model.config.get_text_config()
    returns_router_logits = getattr(text_config, "output_router_logits", False)
    if returns_router_logits:
        text_config.output_router_logits = False
    try:
        yield
    finally:
        if returns_router_logits:
            text_config.output_router_logits = True
        model.train(was_training)
