"""Keys and values of beginnings of prompts, so that what was read once is not read again.

A prompt is cut into blocks. A block is known by its own tokens, by all before it and by the model
that read it, so that finding the blocks of a prompt one after the other finds its longest known
beginning, whichever prompts that came from. What was used longest ago is forgotten first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from prometheus_client import CollectorRegistry, Counter, generate_latest
from transformers.cache_utils import DynamicCache

BLOCK_TOKENS = 64

# Keys and values of one block in each layer, each [1, heads, BLOCK_TOKENS, head_dim].
_Block = list[tuple[torch.Tensor, torch.Tensor]]


class Prefixes:
    """Beginnings that are kept, bounded in tokens; belongs to the engine's thread alone."""

    def __init__(self, *, most_tokens: int, identity: Callable[[str], str]) -> None:
        """Keep nothing yet. identity: what tells a model from all that had its name before."""
        self._most_blocks = most_tokens // BLOCK_TOKENS
        self._identity = identity
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._registry = CollectorRegistry()
        self._asked = Counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked for.", registry=self._registry
        )
        self._found = Counter(
            "vllm:prefix_cache_hits", "Prompt tokens not read again.", registry=self._registry
        )

    def __len__(self) -> int:
        return len(self._blocks)

    def knows(self, prompt: Sequence[int], *, model: str) -> bool:
        """Whether a part of the prompt need not be read."""
        first = next(self._keys(prompt, model, of_whole=False), None)
        return first in self._blocks

    def find(self, prompt: Sequence[int], *, model: str) -> DynamicCache:
        """A cache of one row that holds the prompt's longest known beginning.

        It never holds the whole prompt: the next token's scores come from reading the last one.
        """
        known = []
        for key in self._keys(prompt, model, of_whole=False):
            if key not in self._blocks:
                break
            known.append(key)
        self._asked.inc(len(prompt))
        self._found.inc(len(known) * BLOCK_TOKENS)
        self._use(known)
        cache = DynamicCache()
        layers = zip(*(self._blocks[key] for key in known), strict=True)
        for layer, states in enumerate(layers):
            keys, values = (torch.cat(parts, dim=2) for parts in zip(*states, strict=True))
            cache.update(keys, values, layer)
        return cache

    def keep(self, prompt: Sequence[int], cache: DynamicCache, *, row: int, model: str) -> None:
        """Keep a prompt that has been read into a row of a cache, padded on the left."""
        padding = cache.get_seq_length() - len(prompt)
        keys = [*self._keys(prompt, model, of_whole=True)][: self._most_blocks]
        for place, key in enumerate(keys):
            if key not in self._blocks:
                start = padding + place * BLOCK_TOKENS
                self._blocks[key] = [
                    (_part(layer.keys, row, start), _part(layer.values, row, start))
                    for layer in cast("list[Any]", cache.layers)
                ]
        self._use(keys)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)

    def clear(self) -> bool:
        """Forget all; whether there was something."""
        had_some = bool(self._blocks)
        self._blocks.clear()
        return had_some

    def metrics(self) -> str:
        """How much was found, for Prometheus, under vLLM's names."""
        return generate_latest(self._registry).decode()

    def _use(self, keys: Sequence[bytes]) -> None:
        """Have these be forgotten last, the later ones before those that they go on from."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _keys(self, prompt: Sequence[int], model: str, *, of_whole: bool) -> Iterator[bytes]:
        """The names of a prompt's blocks; of_whole: also of one that ends where the prompt does."""
        name = self._identity(model).encode()
        blocks = (len(prompt) - (not of_whole)) // BLOCK_TOKENS
        for start in range(0, blocks * BLOCK_TOKENS, BLOCK_TOKENS):
            ids = array("q", prompt[start : start + BLOCK_TOKENS]).tobytes()
            name = hashlib.blake2b(name + ids, digest_size=32).digest()
            yield name


def _part(states: torch.Tensor, row: int, start: int) -> torch.Tensor:
    """A copy of its own, so that nothing else of the cache is held."""
    return states[row : row + 1, :, start : start + BLOCK_TOKENS].clone()
