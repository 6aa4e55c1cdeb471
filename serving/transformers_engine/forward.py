"""The model itself: scores for the next token of each row, each row by the model that it names.

Knows nothing of requests. Belongs to one thread, which also adds and removes adapters.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from serving.model.adapter_names import adapter_key
from serving.model.adapters import add_adapter, check_adapter, check_mixes, remove_adapter
from serving.model.layers import layers_of
from serving.weights.marker import Marker
from tasks.contract.programs.serving import AdapterSource

_SCORES_AT_ONCE = 2**25  # numbers of four bytes


class Forward:
    """Scores for the next token of each row, by the base or one of the adapters beside it."""

    def __init__(self, model: Any, *, base: str) -> None:
        """Compute with a model that may have adapters; base: its name without any."""
        self._base = base
        adapted = hasattr(model, "peft_config") and hasattr(model, "base_model")
        self._peft = model if adapted else None
        self._model: PreTrainedModel = self._peft.base_model.model if self._peft else model
        self._device = self._model.get_input_embeddings().weight.device
        self._mixes = self._find_mixes()
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        self._active: str | None = ""
        self._times_added = Counter[str]()

    @property
    def dtype(self) -> str:
        """The number format of its weights, as PyTorch names it."""
        return str(self._model.dtype).removeprefix("torch.")

    def _find_mixes(self) -> bool:
        """Whether PEFT runs rows of different adapters together: for plain LoRA layers alone."""
        configs = self._peft.peft_config.values() if self._peft else ()
        return not any(
            config.use_dora or config.modules_to_save or getattr(config, "target_parameters", None)
            for config in configs
        )

    def check(self, source: AdapterSource, *, marker: Marker | None) -> None:
        """Nothing when `add` may have the adapter; changes nothing, so any thread may ask.

        Raises: AdapterMismatch.
        """
        check_adapter(source, layers_of(self._model), marker=marker)
        check_mixes(source)

    def add(self, source: AdapterSource) -> None:
        """Have one adapter more, between two steps. Raises: AdapterMismatch."""
        self._active = ""  # PEFT switches layers as it loads
        self._times_added[source.name] += 1
        self._peft = add_adapter(self._peft or self._model, source)
        self._mixes = self._find_mixes()

    def remove(self, name: str) -> None:
        """Free an adapter's weights, between two steps; no row of it is in work."""
        assert self._peft is not None
        self._active = ""
        remove_adapter(self._peft, name)
        self._mixes = self._find_mixes()

    def identity(self, model: str) -> str:
        """What tells a model from those that had its name before it."""
        return f"{self._times_added[model]} {model}"

    def can_mix(self, models: Collection[str]) -> bool:
        """Whether rows of these models may share a batch."""
        return self._mixes or len(set(models)) == 1

    def __call__(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        lengths: Sequence[int],
        cache: Any,
        models: Sequence[str],
    ) -> torch.Tensor:
        """Scores [rows, vocabulary] after the given tokens.

        tokens: rows padded on the left to one length. lengths: of each row with these tokens.
        """
        return self._scores(tokens, lengths=lengths, cache=cache, models=models)[:, -1]

    def each(self, tokens: Sequence[int], *, cache: Any, model: str) -> Iterator[torch.Tensor]:
        """Scores [some, vocabulary] after each token of one row, in order, bounded in size."""
        held, some = cache.get_seq_length(), max(1, _SCORES_AT_ONCE // self._vocabulary)
        for start in range(0, len(tokens), some):
            part = tokens[start : start + some]
            length = held + start + len(part)
            yield self._scores(
                [part], lengths=[length], cache=cache, models=[model], keep=len(part)
            )[0]

    def _scores(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        lengths: Sequence[int],
        cache: Any,
        models: Sequence[str],
        keep: int = 1,
    ) -> torch.Tensor:
        """Scores [rows, keep, vocabulary] after the last tokens."""
        ids = torch.tensor(tokens, device=self._device)
        held = torch.tensor(lengths, device=self._device)
        columns = cache.get_seq_length() + ids.shape[1]
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": _positions(held, ids.shape[1]),
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": keep,
        }
        if min(lengths) < columns:
            counted = torch.arange(columns, device=self._device)
            arguments["attention_mask"] = counted >= (columns - held)[:, None]
        logits: torch.Tensor = self._choose(models)(**arguments).logits[:, -keep:]
        return logits.float()

    def _choose(self, models: Sequence[str]) -> Callable[..., Any]:
        if self._peft is None:
            return self._model
        adapters = [None if name == self._base else adapter_key(name) for name in models]
        wanted = set(adapters)
        if len(wanted) > 1:
            self._activate(next(name for name in adapters if name is not None))
            names = [name or "__base__" for name in adapters]
            peft = self._peft
            return lambda **arguments: peft(**arguments, adapter_names=names)
        self._activate(adapters[0])
        return self._model

    def _activate(self, adapter: str | None) -> None:
        """Switch all layers to one adapter, or to none; costs milliseconds, so only on change."""
        if adapter == self._active or self._peft is None:
            return
        if adapter is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(adapter)
        self._active = adapter


def left_padded(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of one length, as `Forward` takes them; what pads them is looked at by none."""
    longest = max(map(len, prompts))
    return [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]


def _positions(held: torch.Tensor, count: int) -> torch.Tensor:
    """Positions [rows, count] of the last tokens of each row; padding sits at position 0."""
    last = torch.arange(count - 1, -1, -1, device=held.device)
    return (held[:, None] - 1 - last).clamp(min=0)
