"""Answers that are JSON of a schema: which tokens may come next is llguidance's to say."""

from typing import Any

import torch


class Held:
    """One answer and where it stands in its schema."""

    def __init__(self, matcher: Any) -> None:
        """Hold an answer to what a matcher of `Grammars` follows."""
        self._matcher = matcher

    def mask(self, scores: torch.Tensor) -> None:
        """Leave those tokens that may come next; scores [vocabulary] are changed in place."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        allowed = bits.flatten()[: len(scores)].bool()
        scores.masked_fill_(~allowed.to(scores.device), -torch.inf)

    def take(self, token: int) -> None:
        """Go on behind a token. Raises: ValueError: it may not come there."""
        if not self._matcher.consume_token(token):
            raise ValueError(self._matcher.get_error() or "a token that the schema does not take")
