"""The loss on answers for a CPU: logits only where there is loss, a few rows of them at a time.

On SmolLM2 (vocabulary 49152) the output head is a fifth of the model; TRL's own loss scores every
position on a CPU, and computes the logits once more in the backward pass. Here the gradient falls
out of the forward pass, as the head's weight is frozen.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tasks.estimate.memory import LOSS_POSITIONS

NO_LOSS = -100


def summed_answer_loss(
    hidden: torch.Tensor, labels: torch.Tensor, head_weight: torch.Tensor
) -> torch.Tensor:
    """The negative log-likelihood of all labels, summed; differentiable in `hidden` alone.

    Shapes: hidden [batch, seq, width], labels [batch, seq] int64 (not shifted, NO_LOSS = none),
    head_weight [vocabulary, width]. The sum is float32.
    """
    predicted, following = hidden[:, :-1], labels[:, 1:]
    has_loss = following != NO_LOSS
    with torch.autocast(hidden.device.type, enabled=False):
        return _SummedLoss.apply(  # type: ignore[no-any-return]
            predicted[has_loss].to(head_weight.dtype), head_weight, following[has_loss]
        )


def has_plain_head(head: nn.Module | None, config: Any) -> bool:
    """Whether logits are the hidden states times the head's weight and no more.

    That is: no bias, scale or cap, and no adapter on it.
    """
    text = config.get_text_config()
    scales = ("final_logit_softcapping", "logit_scale", "output_multiplier", "logits_scaling")
    scaled = any(getattr(text, name, None) is not None for name in (*scales, "lm_head_multiplier"))
    return type(head) is nn.Linear and head.bias is None and not scaled


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Shapes: hidden [positions, width], targets [positions]."""
        total = torch.zeros((), dtype=torch.float32)
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(hidden), LOSS_POSITIONS):
            part = slice(start, start + LOSS_POSITIONS)
            logits = functional.linear(hidden[part], weight).float()
            target = targets[part, None]
            log_norm = logits.logsumexp(1, keepdim=True)
            total += (log_norm - logits.gather(1, target)).sum()
            if gradient is not None:
                # Softmax less one at the target: what the logits' gradient is.
                slope = logits.sub_(log_norm).exp_()
                slope.scatter_add_(1, target, -torch.ones_like(target, dtype=slope.dtype))
                torch.mm(slope.to(weight.dtype), weight, out=gradient[part])
        ctx.save_for_backward(*(() if gradient is None else (gradient,)))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None
