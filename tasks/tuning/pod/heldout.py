"""What tuning changed, on rows that were not trained on: the loss on their answers, and samples.

Both sides come from one model in memory, the adapter switched off and on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tasks.tuning.pod.batches import RowsByLength
from tasks.tuning.pod.data import (
    Example,
    Messages,
    Row,
    answer_of,
    encode_question,
    find_end_ids,
    question_of,
)
from tasks.tuning.pod.model import repack_weights
from tasks.tuning.pod.trainer import AnswerTrainer

_SAMPLE_TOKENS = 64
# Answers generated together cost little more than one: the weights are read once a token.
_QUESTIONS = 4


@dataclass(frozen=True)
class Answer:
    """Generated text; stopped: by an end token, not by the limit."""

    text: str
    stopped: bool


def compare(
    trainer: AnswerTrainer,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: Sequence[Row],
    examples: Sequence[Example],
) -> dict[str, Any] | None:
    """The outcome's `held_out`: rows, loss_before, loss_after, sample, answers; None without rows.

    To be called when training is over: answers are generated from repacked weights.

    sample: question, reference, before, after, stopped_before, stopped_after; None where no row is
    a single question. answers: how many of the few generated ones stopped by themselves.
    """
    if not examples:
        return None
    asked = [(question, row) for row in rows if (question := question_of(row)) is not None]
    asked = asked[:_QUESTIONS]
    questions = [question for question, _ in asked]
    with _evaluating(trainer):
        loss_after = answer_loss(trainer, examples)
        with trainer.adapted.disable_adapter():
            loss_before = answer_loss(trainer, examples)
        repack_weights(trainer.adapted)
        with trainer.computing():
            after = generate(trainer.adapted, tokenizer, questions)
            with trainer.adapted.disable_adapter():
                before = generate(trainer.adapted, tokenizer, questions)
    return {
        "rows": len(examples),
        "loss_before": round(loss_before, 4),
        "loss_after": round(loss_after, 4),
        "sample": _sample(asked[0], before[0], after[0]) if asked else None,
        "answers": {
            "asked": len(asked),
            "stopped_before": sum(answer.stopped for answer in before),
            "stopped_after": sum(answer.stopped for answer in after),
        },
    }


def answer_loss(trainer: AnswerTrainer, examples: Sequence[Example]) -> float:
    """The mean loss over all answer tokens of the examples."""
    lengths = [len(one.input_ids) for one in examples]
    batch = trainer.args.per_device_eval_batch_size
    order = list(RowsByLength(lengths, batch=batch, seed=0))
    total, tokens = 0.0, 0
    for start in range(0, len(order), batch):
        chosen = [examples[index] for index in order[start : start + batch]]
        count = sum(one.answer_tokens for one in chosen)
        features = [{"input_ids": one.input_ids, "labels": one.labels} for one in chosen]
        inputs = trainer._prepare_inputs(trainer.data_collator(features))  # noqa: SLF001
        with torch.no_grad():
            loss = trainer.compute_loss(
                trainer.adapted, inputs, num_items_in_batch=torch.tensor(count)
            )
        total += float(loss) * count
        tokens += count
    return total / tokens


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Messages | str],
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


def _sample(asked: tuple[Messages | str, Row], before: Answer, after: Answer) -> dict[str, Any]:
    question, row = asked
    return {
        "question": question if isinstance(question, str) else question[-1]["content"],
        "reference": answer_of(row),
        "before": before.text,
        "after": after.text,
        "stopped_before": before.stopped,
        "stopped_after": after.stopped,
    }


@contextmanager
def _evaluating(trainer: AnswerTrainer) -> Iterator[None]:
    was_training = trainer.adapted.training
    trainer.adapted.eval()
    # Left on by recomputed activations, it would forbid the cache that generation lives on.
    recomputes = getattr(trainer.adapted, "is_gradient_checkpointing", False)
    if recomputes:
        trainer.adapted.gradient_checkpointing_disable()
    # A mixture of experts is trained with its routers' balance in the loss. Here the answers alone
    # count, and while generating the routers' logits are of one token, the mask of all.
    text_config = trainer.adapted.config.get_text_config()
    balances, returns_router_logits = (
        trainer.aux_loss_enabled,
        getattr(text_config, "output_router_logits", False),
    )
    trainer.aux_loss_enabled = False
    if returns_router_logits:
        text_config.output_router_logits = False
    try:
        yield
    finally:
        trainer.aux_loss_enabled = balances
        if returns_router_logits:
            text_config.output_router_logits = True
        trainer.adapted.train(was_training)
