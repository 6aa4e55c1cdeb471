"""The loss on answers is transformers' own, for less work."""

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, GraniteConfig, LlamaConfig

from tasks.tuning.pod.answer_loss import NO_LOSS, has_plain_head, summed_answer_loss
from tests.tuning.tiny import tiny_llama


def example(*, batch: int = 3, length: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (batch, length), generator=generator)
    labels = ids.masked_fill(torch.rand(batch, length, generator=generator) < 0.4, NO_LOSS)
    return ids, labels


def test_it_equals_the_models_own_loss() -> None:
    model = tiny_llama()
    ids, labels = example()
    hidden = model.model(input_ids=ids).last_hidden_state
    ours = summed_answer_loss(hidden, labels, model.lm_head.weight) / (labels[:, 1:] != -100).sum()
    assert ours.item() == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), rel=1e-6)


def test_its_gradient_equals_the_models_own() -> None:
    model = tiny_llama()
    ids, labels = example()
    weight = model.model.layers[0].self_attn.q_proj.weight
    model(input_ids=ids, labels=labels, num_items_in_batch=1).loss.backward()
    assert weight.grad is not None
    theirs = weight.grad.clone()
    model.zero_grad()
    hidden = model.model(input_ids=ids).last_hidden_state
    summed_answer_loss(hidden, labels, model.lm_head.weight).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(weight.grad, theirs, rtol=1e-4, atol=1e-5)


def test_without_any_label_it_is_zero_and_can_be_differentiated() -> None:
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    loss = summed_answer_loss(hidden, torch.full((1, 4), NO_LOSS), torch.randn(16, 8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert hidden.grad is not None


def test_heads_that_do_more_than_a_product_are_left_to_trl() -> None:
    head = nn.Linear(4, 8, bias=False)
    assert has_plain_head(head, LlamaConfig())
    assert not has_plain_head(nn.Linear(4, 8), LlamaConfig())
    assert not has_plain_head(head, Gemma2Config(final_logit_softcapping=30.0))
    assert not has_plain_head(head, GraniteConfig(logits_scaling=2.0))
