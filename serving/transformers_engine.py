"""Continuous batching over any transformers causal language model, on CPU and GPU.

One thread owns the model. Each turn it takes waiting requests in (one padded prefill) or makes one
step for all rows together; rows join and leave between steps. Rows of different adapters share a
batch. Each row has its own positions, mask and random numbers, so that in exact arithmetic it says
what it says alone; in bfloat16 a batch rounds otherwise, which can turn a near tie.
"""

import contextlib
import copy
import json
import logging
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from serving.engine import (
    DeviceFullError,
    FinishReason,
    Generation,
    GenerationFailedError,
    Load,
    Message,
    Piece,
    QueueFullError,
    Sampling,
    Stream,
)
from serving.gpus import require_gpus
from serving.kv_cache import RowCache
from serving.metrics import Metrics
from serving.model import (
    adapter_key,
    find_device,
    load_adapters,
    load_base_model,
    load_tokenizer,
    preferred_dtype,
    quiet_libraries,
)
from serving.prompts import Prompts
from serving.sampling import Choice, choose
from serving.text import TextStream
from tasks.contract.errors import WeightsUnavailable
from tasks.contract.programs.serving import ServerConfig

log = logging.getLogger(__name__)

_PREFILL_TOKENS = 4096  # in one go, padding counted: bounds how long a join holds the others up
_BROKEN_AFTER_FAILURES = 3
_CACHE_SHARE_OF_FREE_MEMORY = 0.6
# How CUDA, cuBLAS and PyTorch's allocator on a CPU say it; only the first has a class of its own.
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


@dataclass(eq=False)
class _Row:
    """One continuation: what was asked, where it stands. length: its tokens in the cache."""

    generation: Generation
    index: int
    stream: Stream
    submitted_s: float
    choice: Choice
    text: TextStream
    length: int = 0
    token: int = 0
    generated: int = 0
    last_token_s: float = 0.0

    @property
    def reserved_tokens(self) -> int:
        return len(self.generation.prompt_ids) + self.generation.max_tokens


class TransformersEngine:
    """An `Engine`; made by `load_engine`."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._forward = _Forward(model)
        self._prompts = Prompts(
            tokenizer, adapters={source.name: source.path for source in config.adapters}
        )
        self._tokenizer = copy.deepcopy(tokenizer)  # this thread's own: see Prompts
        self._config = config
        self._metrics = metrics
        self._base = config.served_model_name
        self._stop_ids, self.default_sampling = _generation_defaults(config.weights_dir, tokenizer)
        self.vocabulary_tokens = int(model.get_input_embeddings().weight.shape[0])
        self._cache_tokens = _cache_tokens(model)
        self.context_tokens = min(_context(config, model), self._cache_tokens)
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.context_characters = self.context_tokens * longest
        self.most_rows = config.max_concurrency + config.max_queue
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._cache = RowCache()
        self._failures = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def models(self) -> Mapping[str, str | None]:
        return {self._base: None} | {source.name: self._base for source in self._config.adapters}

    @property
    def is_broken(self) -> bool:
        return self._failures >= _BROKEN_AFTER_FAILURES or not self._thread.is_alive()

    def encode_chat(self, messages: Sequence[Message], *, model: str) -> list[int]:
        return self._prompts.encode_chat(messages, model=model)

    def has_chat_template(self, model: str) -> bool:
        return self._prompts.has_chat_template(model)

    def encode_text(self, text: str) -> list[int]:
        return self._prompts.encode_text(text)

    def load(self) -> Load:
        rows = list(self._rows)
        used = len(rows) * max((row.length for row in rows), default=0)
        waiting = sum(not row.stream.cancelled for row in list(self._waiting))
        return Load(len(rows), waiting, used / self._cache_tokens)

    def submit(self, *generations: Generation) -> Stream:
        stream = Stream(sum(generation.n for generation in generations))
        each = [(generation, turn) for generation in generations for turn in range(generation.n)]
        rows = [
            self._row(generation, index, stream, turn=turn)
            for index, (generation, turn) in enumerate(each)
        ]
        with self._wake:
            self._forget_given_up()
            free = max(0, self._config.max_concurrency - len(self._rows))
            if len(self._waiting) + len(rows) > self._config.max_queue + free:
                raise QueueFullError
            self._waiting.extend(rows)
            self._wake.notify()
        for generation in generations:
            self._metrics.prompt_tokens.labels(generation.model).inc(len(generation.prompt_ids))
        return stream

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _row(self, generation: Generation, index: int, stream: Stream, *, turn: int) -> _Row:
        rules = generation.sampling
        seed = None if rules.seed is None else rules.seed + turn
        return _Row(
            generation=generation,
            index=index,
            stream=stream,
            submitted_s=time.monotonic(),
            choice=Choice(rules, generation.prompt_ids, random.Random(seed)),
            text=TextStream(self._decode, stop=generation.stop, context=generation.prompt_ids[-1:]),
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._turn()
                self._failures = 0
            except Exception as error:  # noqa: BLE001 - told to the rows; the next may do well
                self._fail(error)
        self._give_up(GenerationFailedError("the server is stopping"))

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._rows or self._waiting)
            return not self._closing

    @torch.inference_mode()
    def _turn(self) -> None:
        self._drop_cancelled()
        if joining := self._admit():
            self._prefill(joining)
        elif self._rows:
            self._step()

    def _fail(self, error: Exception) -> None:
        """Give every row in work up, and start clean: what the cache holds cannot be trusted."""
        self._failures += 1
        log.error(
            "generation failed rows=%d failures=%d",
            len(self._rows),
            self._failures,
            exc_info=error,
        )
        self._give_up(_told(error), waiting=False)
        self._cache = RowCache()
        # What failed still holds its tensors: frames live as long as the error does.
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()

    def _give_up(self, error: GenerationFailedError, *, waiting: bool = True) -> None:
        with self._wake:
            rows = [*self._rows, *(self._waiting if waiting else ())]
            self._rows = []
            if waiting:
                self._waiting.clear()
        for row in rows:
            row.stream.deliver(error)

    def _drop_cancelled(self) -> None:
        self._leave([row for row in self._rows if row.stream.cancelled])

    def _leave(self, leaving: Sequence[_Row]) -> None:
        """Take rows out of the batch and its cache."""
        if not leaving:
            return
        gone = set(map(id, leaving))
        for at in range(len(self._rows) - 1, -1, -1):
            if id(self._rows[at]) in gone:
                self._cache.remove(at)
                self._rows[at] = self._rows[-1]
                self._rows.pop()
        self._cache.fit([row.length for row in self._rows])

    def _admit(self) -> list[_Row]:
        """The waiting rows that may join now, in the order they came."""
        joining: list[_Row] = []
        with self._wake:
            self._forget_given_up()
            while self._waiting and self._may_join(self._waiting[0], joining):
                joining.append(self._waiting.popleft())
            self._rows = [*self._rows, *joining]
        return joining

    def _forget_given_up(self) -> None:
        """Whoever hung up while waiting keeps nobody else out of the queue."""
        self._waiting = deque(row for row in self._waiting if not row.stream.cancelled)

    def _may_join(self, row: _Row, joining: Sequence[_Row]) -> bool:
        together = [*self._rows, *joining, row]
        longest = max(len(each.generation.prompt_ids) for each in [*joining, row])
        return (
            len(together) <= self._config.max_concurrency
            and (not joining or longest * (len(joining) + 1) <= _PREFILL_TOKENS)
            and len(together) * max(each.reserved_tokens for each in together) <= self._cache_tokens
            and self._forward.can_mix(map(self._adapter, together))
        )

    def _adapter(self, row: _Row) -> str | None:
        name = row.generation.model
        return None if name == self._base else adapter_key(name)

    def _prefill(self, joining: Sequence[_Row]) -> None:
        """Read the prompts of rows that join and choose their first tokens."""
        prompts = [row.generation.prompt_ids for row in joining]
        cache = DynamicCache()
        logits = self._forward(
            _left_padded(prompts),
            lengths=[len(prompt) for prompt in prompts],
            cache=cache,
            adapters=[self._adapter(row) for row in joining],
        )
        self._cache.add(cache)
        for row in joining:
            row.length = len(row.generation.prompt_ids)
        self._continue(joining, logits)

    def _step(self) -> None:
        """One more token for every row."""
        logits = self._forward(
            [[row.token] for row in self._rows],
            lengths=[row.length + 1 for row in self._rows],
            cache=self._cache,
            adapters=[self._adapter(row) for row in self._rows],
        )
        self._cache.advance()
        for row in self._rows:
            row.length += 1
        self._continue(self._rows, logits)

    def _continue(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        for row in rows:
            held_off = row.generated < row.generation.min_tokens
            row.choice.forbidden_ids = tuple(self._stops(row)) if held_off else ()
        tokens = choose(logits, [row.choice for row in rows])
        chosen = zip(rows, tokens, strict=True)
        self._leave([row for row, token in chosen if self._ends(row, token)])

    def _stops(self, row: _Row) -> frozenset[int]:
        own = frozenset() if row.generation.ignore_eos else self._stop_ids
        return own | row.generation.stop_token_ids

    def _ends(self, row: _Row, token: int | Exception) -> bool:
        """Whether a row ends, with its next token or with a fault of its own."""
        if isinstance(token, Exception):
            return self._end_badly(row, token)
        try:
            return self._take(row, token)
        except Exception as error:  # noqa: BLE001 - told to this row; the others go on
            return self._end_badly(row, error)

    def _end_badly(self, row: _Row, error: Exception) -> Literal[True]:
        """One row's fault says nothing of the model: it does not count towards `is_broken`."""
        log.error("row failed model=%s", row.generation.model, exc_info=error)
        row.stream.deliver(_told(error))
        return True

    def _take(self, row: _Row, token: int) -> bool:
        """Give a row its next token; whether that was its last."""
        row.token = token
        row.generated += 1
        is_stop = token in self._stops(row)
        text = "" if is_stop else row.text.add(token)
        reason: FinishReason | None = None
        if is_stop or row.text.stopped:
            reason = "stop"
        elif row.generated >= row.generation.max_tokens:
            reason = "length"
        if reason:
            text += row.text.finish()
            reason = "stop" if row.text.stopped else reason
        self._measure(row, reason)
        row.stream.deliver(Piece(index=row.index, text=text, tokens=1, finish_reason=reason))
        return reason is not None

    def _measure(self, row: _Row, reason: FinishReason | None) -> None:
        now, name = time.monotonic(), row.generation.model
        self._metrics.generation_tokens.labels(name).inc()
        if row.generated == 1:
            self._metrics.first_token_s.labels(name).observe(now - row.submitted_s)
        else:
            self._metrics.between_tokens_s.labels(name).observe(now - row.last_token_s)
        row.last_token_s = now
        if reason:
            self._metrics.request_s.labels(name).observe(now - row.submitted_s)
            self._metrics.finished.labels(name, reason).inc()


def _told(error: Exception) -> GenerationFailedError:
    """A fault as whoever waits for the answer is told it; without the frames that hold tensors."""
    message = str(error)
    is_memory = isinstance(error, MemoryError) or any(part in message for part in _OUT_OF_MEMORY)
    return (DeviceFullError if is_memory else GenerationFailedError)(message)


class _Forward:
    """The model's scores for the next token of each row, each row by its own adapter."""

    def __init__(self, model: Any) -> None:
        self._peft = (
            model if hasattr(model, "peft_config") and hasattr(model, "base_model") else None
        )
        self._model: PreTrainedModel = self._peft.base_model.model if self._peft else model
        self._device = self._model.get_input_embeddings().weight.device
        configs = self._peft.peft_config.values() if self._peft else ()
        # PEFT runs rows of different adapters together for plain LoRA layers alone.
        self._mixes = not any(
            config.use_dora or config.modules_to_save or getattr(config, "target_parameters", None)
            for config in configs
        )
        self._active: str | None = ""

    def can_mix(self, adapters: Iterator[str | None]) -> bool:
        """Whether rows of these adapters (None is the base model) may share a batch."""
        return self._mixes or len(set(adapters)) == 1

    def __call__(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        lengths: Sequence[int],
        cache: Any,
        adapters: Sequence[str | None],
    ) -> torch.Tensor:
        """Scores [rows, vocabulary] after the given tokens.

        tokens: rows padded on the left to one length. lengths: of each row with these tokens.
        """
        ids = torch.tensor(tokens, device=self._device)
        held = torch.tensor(lengths, device=self._device)
        columns = cache.get_seq_length() + ids.shape[1]
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": _positions(held, ids.shape[1]),
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if min(lengths) < columns:
            counted = torch.arange(columns, device=self._device)
            arguments["attention_mask"] = counted >= (columns - held)[:, None]
        logits: torch.Tensor = self._choose(adapters)(**arguments).logits[:, -1]
        return logits.float()

    def _choose(self, adapters: Sequence[str | None]) -> Callable[..., Any]:
        if self._peft is None:
            return self._model
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


def _positions(held: torch.Tensor, count: int) -> torch.Tensor:
    """Positions [rows, count] of the last tokens of each row; padding sits at position 0."""
    last = torch.arange(count - 1, -1, -1, device=held.device)
    return (held[:, None] - 1 - last).clamp(min=0)


def _left_padded(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    return [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]


def _context(config: ServerConfig, model: Any) -> int:
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096
    return min(int(own), config.max_context_tokens or int(own))


def _cache_tokens(model: Any) -> int:
    """How many tokens' keys and values fit into what the weights left free."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    bytes_per_token = 2 * text.num_hidden_layers * heads * width * model.dtype.itemsize
    return int(_free_memory_bytes(model) * _CACHE_SHARE_OF_FREE_MEMORY / bytes_per_token)


def _free_memory_bytes(model: Any) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _generation_defaults(
    weights_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[frozenset[int], Sampling]:
    """The tokens that end a text, and the sampling that the model's authors recommend."""
    path = weights_dir / "generation_config.json"
    fields = json.loads(path.read_text()) if path.is_file() else {}
    ends = fields.get("eos_token_id")
    stop_ids = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    known = {
        key: fields[key]
        for key in ("temperature", "top_p", "top_k", "repetition_penalty")
        if fields.get(key) is not None
    }
    sampling = replace(Sampling(temperature=1.0), **known)
    return frozenset(stop_ids - {None}), sampling


def load_engine(
    config: ServerConfig, *, metrics: Metrics, dtype: torch.dtype | None = None
) -> TransformersEngine:
    """An engine with the model and its adapters in memory; takes seconds to minutes.

    dtype: None for the device's preferred one.
    Raises: WeightsUnavailable, AdapterMismatch, GpuIncompatible.
    """
    quiet_libraries()
    started_s = time.monotonic()
    require_gpus(config.gpus)
    dtype = dtype or preferred_dtype(find_device())
    base = load_base_model(config.weights_dir, dtype=dtype)
    _check_cache(base)
    tokenizer = load_tokenizer(config.weights_dir)
    model = load_adapters(base, config.adapters, weights_dir=config.weights_dir)
    engine = TransformersEngine(model, tokenizer, config=config, metrics=metrics)
    log.info(
        "model loaded device=%s dtype=%s adapters=%d context_tokens=%d seconds=%.1f",
        base.device,
        dtype,
        len(config.adapters),
        engine.context_tokens,
        time.monotonic() - started_s,
    )
    return engine


def _check_cache(model: PreTrainedModel) -> None:
    """Rows can join and leave where a model remembers keys and values, and nothing else."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return
    others = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise WeightsUnavailable(
        f"a model of type {model.config.model_type} was asked to be served",
        f"it keeps more than keys and values ({others}), which this engine cannot batch",
        "choose a model with attention layers only",
    )
