"""Continuous batching over any transformers causal language model, on CPU and GPU.

One thread owns the model. Each turn it takes waiting requests in (one padded prefill) or makes one
step for all rows together; rows join and leave between steps. Rows of different adapters share a
batch. Each row has its own positions, mask and random numbers, so that in exact arithmetic it says
what it says alone; in bfloat16 a batch rounds otherwise, which can turn a near tie.
"""

import contextlib
import copy
import functools
import json
import logging
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from serving.adapters import adapter_key, load_adapters, weights_digest
from serving.engine import (
    ASKED,
    AdapterTakenError,
    ChatForm,
    DeviceFullError,
    FinishReason,
    Generation,
    GenerationFailedError,
    Load,
    Message,
    ModelGoneError,
    Piece,
    QueueFullError,
    Sampling,
    Served,
    StoppingError,
    Stream,
    Tools,
)
from serving.forward import Forward
from serving.free_memory import free_memory_bytes
from serving.gpus import require_gpus
from serving.grammar import Grammars
from serving.kv_cache import RowCache
from serving.metrics import Metrics
from serving.model import (
    find_device,
    load_base_model,
    load_tokenizer,
    preferred_dtype,
    quiet_libraries,
)
from serving.prompts import Prompts
from serving.sampling import Choice, choose, rank
from serving.spelling import Spelling
from serving.text import TextStream
from serving.weights import read_marker
from tasks.contract.errors import AdapterMismatch, WeightsUnavailable
from tasks.contract.programs.serving import AdapterSource, ServerConfig

log = logging.getLogger(__name__)

_PREFILL_TOKENS = 4096  # in one go, padding counted: bounds how long a join holds the others up
_BROKEN_AFTER_FAILURES = 3
_STOPPING = "the server is stopping"
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


@dataclass(frozen=True)
class _Change:
    """What is done to the model between two steps, once it may be."""

    act: Callable[[], None]
    is_due: Callable[[], bool]
    done: "Future[None]"


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
        self._forward = Forward(model)
        self._prompts = Prompts(tokenizer, adapters=config.adapters)
        self._tokenizer = copy.deepcopy(tokenizer)  # this thread's own: see Prompts
        self._spelling = Spelling(self._tokenizer)
        self._config = config
        self._metrics = metrics
        self._base = config.served_model_name
        self._models = {self._base: Served(parent=None)} | {
            source.name: self._served(source) for source in config.adapters
        }
        self._stop_ids, self.default_sampling = _generation_defaults(config.weights_dir, tokenizer)
        self.vocabulary_tokens = int(model.get_input_embeddings().weight.shape[0])
        self._grammars = Grammars(
            self._tokenizer,
            vocabulary_tokens=self.vocabulary_tokens,
            stop_ids=self._stop_ids,
        )
        self._cache_tokens = _cache_tokens(model)
        self.context_tokens = min(_context(config, model), self._cache_tokens)
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.context_characters = self.context_tokens * longest
        self.most_rows = config.max_concurrency + config.max_queue
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._cache = RowCache()
        self._changes: list[_Change] = []
        self._leaving: set[str] = set()  # adapters on their way in or out: their names are taken
        self._failures = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def models(self) -> Mapping[str, Served]:
        return self._models

    @property
    def is_broken(self) -> bool:
        return self._failures >= _BROKEN_AFTER_FAILURES or not self._thread.is_alive()

    def encode_chat(
        self, messages: Sequence[Message], *, model: str, form: ChatForm = ASKED
    ) -> list[int]:
        return self._prompts.encode_chat(messages, model=model, form=form)

    def has_chat_template(self, model: str) -> bool:
        return self._prompts.has_chat_template(model)

    def tools_of(self, model: str) -> Tools:
        return self._prompts.tools_of(model)

    def check_schema(self, schema: str) -> None:
        self._grammars.check(schema)

    def encode_text(self, text: str, *, adds: bool = True) -> list[int]:
        return self._prompts.encode_text(text, adds=adds)

    def decode(self, ids: Sequence[int]) -> str:
        return self._prompts.decode(ids)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return self._prompts.tokens(ids)

    def load(self) -> Load:
        rows = list(self._rows)
        used = len(rows) * max((row.length for row in rows), default=0)
        waiting = sum(not row.stream.cancelled for row in list(self._waiting))
        return Load(len(rows), waiting, used / self._cache_tokens)

    def load_adapter(self, source: AdapterSource) -> None:
        with self._wake:
            taken = map(adapter_key, [*self._models, *self._leaving])
            if adapter_key(source.name) in taken:
                raise AdapterTakenError(source.name)
            self._leaving.add(source.name)
        try:
            self._forward.check(source, marker=read_marker(self._config.weights_dir))
            template = self._prompts.template_of(source)
            served = self._served(source)  # reads the file, so that the engine finds it in memory
            prompt_ids = self.encode_text("Hello")
            self._change(lambda: self._add(source, prompt_ids)).result()
            self._prompts.add(source.name, template)
            with self._wake:
                self._models = self._models | {source.name: served}
        finally:
            self._leaving.discard(source.name)

    def _add(self, source: AdapterSource, prompt_ids: Sequence[int]) -> None:
        """Have an adapter that can score a token; in the queue its proof would wait for others."""
        self._forward.add(source)
        try:
            with (
                torch.inference_mode()
            ):  # not around what is added: such weights cannot be switched
                scores = self._forward(
                    [prompt_ids],
                    lengths=[len(prompt_ids)],
                    cache=DynamicCache(),
                    adapters=[adapter_key(source.name)],
                )
            _expect_numbers(source, scores)
        except BaseException:
            self._forward.remove(source.name)
            raise

    def unload_adapter(self, name: str) -> "Future[None]":
        with self._wake:
            if name == self._base or name not in self._models:
                raise ModelGoneError(name)
            self._models = {key: each for key, each in self._models.items() if key != name}
            self._leaving.add(name)

        def remove() -> None:
            self._forward.remove(name)
            self._prompts.remove(name)
            self._leaving.discard(name)

        return self._change(remove, is_due=lambda: not self._is_used(name))

    def _is_used(self, name: str) -> bool:
        return any(row.generation.model == name for row in [*self._rows, *self._waiting])

    def _change(
        self, act: Callable[[], None], *, is_due: Callable[[], bool] = lambda: True
    ) -> "Future[None]":
        change = _Change(act, is_due, Future())
        change.done.set_running_or_notify_cancel()  # nobody who stops waiting stops the change
        with self._wake:
            if self._closing:
                change.done.set_exception(StoppingError(_STOPPING))
            else:
                self._changes.append(change)
                self._wake.notify()
        return change.done

    def _served(self, source: AdapterSource) -> Served:
        return Served(parent=self._base, digest=weights_digest(source.path))

    def submit(self, *generations: Generation) -> Stream:
        stream = Stream(sum(generation.n for generation in generations))
        each = [(generation, turn) for generation in generations for turn in range(generation.n)]
        rows = [
            self._row(generation, index, stream, turn=turn)
            for index, (generation, turn) in enumerate(each)
        ]
        with self._wake:
            if self._closing:
                raise StoppingError(_STOPPING)
            for generation in generations:
                if generation.model not in self._models:
                    raise ModelGoneError(generation.model)
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
            choice=Choice(
                rules,
                generation.prompt_ids,
                random.Random(seed),
                top_logprobs=generation.top_logprobs,
                held=self._grammars.held_to(generation.schema) if generation.schema else None,
            ),
            text=TextStream(
                functools.partial(self._decode, shows_special=generation.shows_special),
                stop=generation.stop,
                shows_stop=generation.shows_stop,
                context=generation.prompt_ids[-1:],
            ),
        )

    def _decode(self, ids: list[int], *, shows_special: bool) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=not shows_special))

    def _run(self) -> None:
        while self._wait_for_work():
            self._make_changes()
            try:
                self._turn()
                self._failures = 0
            except Exception as error:  # noqa: BLE001 - told to the rows; the next may do well
                self._fail(error)
        stopping = StoppingError(_STOPPING)
        self._give_up(stopping)
        for change in self._changes:
            change.done.set_exception(stopping)

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(
                lambda: self._closing or self._rows or self._waiting or self._due_changes()
            )
            return not self._closing

    def _due_changes(self) -> list[_Change]:
        return [change for change in self._changes if change.is_due()]

    def _make_changes(self) -> None:
        """Do what is due to the model; rows in work keep their adapters and what they remember."""
        with self._wake:
            due = self._due_changes()
            self._changes = [change for change in self._changes if change not in due]
        for change in due:
            try:
                change.act()
            except Exception as error:  # noqa: BLE001 - told to whoever asked for the change
                change.done.set_exception(error)
            else:
                change.done.set_result(None)

    @torch.inference_mode()
    def _turn(self) -> None:
        self._drop_cancelled()
        if joining := self._admit():
            self._join(joining)
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
        _free_frames(error)

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
            and not any(each.generation.scores_prompt for each in joining)
            and not (joining and row.generation.scores_prompt)
            and (not joining or longest * (len(joining) + 1) <= _PREFILL_TOKENS)
            and len(together) * max(each.reserved_tokens for each in together) <= self._cache_tokens
            and self._forward.can_mix(map(self._adapter, together))
        )

    def _adapter(self, row: _Row) -> str | None:
        name = row.generation.model
        return None if name == self._base else adapter_key(name)

    def _join(self, joining: Sequence[_Row]) -> None:
        """Read the prompts of rows that join and choose their first tokens.

        What the memory does not hold together is read one by one; a prompt that it does not hold
        alone ends its own row, and the others go on.
        """
        try:
            cache, logits = self._read(joining)
            self._cache.reserve(cache)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            self._join_apart(joining, error)
            return
        self._cache.add(cache)
        for row in joining:
            row.length = len(row.generation.prompt_ids)
        self._continue(joining, logits)

    def _join_apart(self, joining: Sequence[_Row], error: Exception) -> None:
        """Have rows join one by one after they did not together; one alone has had its try."""
        self._rows = [row for row in self._rows if row not in joining]
        _free_frames(error)
        if len(joining) == 1:
            self._end_badly(joining[0], error)
            return
        for row in joining:
            self._rows = [*self._rows, row]
            self._join([row])

    def _read(self, joining: Sequence[_Row]) -> tuple[DynamicCache, torch.Tensor]:
        if joining[0].generation.scores_prompt:
            return self._read_with_scores(joining[0])
        prompts = [row.generation.prompt_ids for row in joining]
        cache = DynamicCache()
        logits = self._forward(
            _left_padded(prompts),
            lengths=[len(prompt) for prompt in prompts],
            cache=cache,
            adapters=[self._adapter(row) for row in joining],
        )
        return cache, logits

    def _read_with_scores(self, row: _Row) -> tuple[DynamicCache, torch.Tensor]:
        """Read a prompt that is told token by token how likely it was."""
        ids, cache = list(row.generation.prompt_ids), DynamicCache()
        count = row.generation.top_logprobs or 0
        scored, after, last = [self._spelling.scored(ids[0], None)], 1, None
        for scores in self._forward.each(ids, cache=cache, adapter=self._adapter(row)):
            following, last = ids[after : after + len(scores)], scores[-1:]
            if following:
                logprobs = torch.log_softmax(scores[: len(following)], -1)
                ranks = rank(following, logprobs, count=count)
                scored += map(self._spelling.scored, following, ranks)
            after += len(scores)
        assert last is not None
        row.stream.deliver(Piece(index=row.index, text="", tokens=0, scored=tuple(scored)))
        return cache, last

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
        is_shown = not is_stop or (
            row.generation.shows_stop and token in row.generation.stop_token_ids
        )
        text = row.text.add(token) if is_shown else ""
        ranked = row.choice.ranked if is_shown else None
        scored = (self._spelling.scored(token, ranked),) if ranked else ()
        reason: FinishReason | None = None
        if is_stop or row.text.stopped:
            reason = "stop"
        elif row.generated >= row.generation.max_tokens:
            reason = "length"
        if reason:
            text += row.text.finish()
            reason = "stop" if row.text.stopped else reason
        self._measure(row, reason)
        row.stream.deliver(
            Piece(index=row.index, text=text, tokens=1, finish_reason=reason, scored=scored)
        )
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
    kind = DeviceFullError if _is_out_of_memory(error) else GenerationFailedError
    return kind(str(error))


def _is_out_of_memory(error: Exception) -> bool:
    message = str(error)
    return isinstance(error, MemoryError) or any(part in message for part in _OUT_OF_MEMORY)


def _free_frames(error: Exception) -> None:
    """Free the tensors of what failed: its frames live as long as the error does."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _expect_numbers(source: AdapterSource, scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise AdapterMismatch(
            f"adapter {source.name} was asked for",
            "its scores for a token are no numbers",
            "tune it again",
        )


def _left_padded(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    return [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]


def _context(config: ServerConfig, model: Any) -> int:
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096
    return min(int(own), config.max_context_tokens or int(own))


def _cache_tokens(model: Any) -> int:
    """How many tokens' keys and values fit into what the weights left free."""
    text = model.config.get_text_config()
    # Where layers differ, each has a configuration of its own.
    layers = getattr(text, "per_layer_config", None) or [text] * text.num_hidden_layers
    numbers = 2 * sum(_kv_width(layer) for layer in layers)
    bytes_per_token = numbers * model.dtype.itemsize
    return int(_free_memory_bytes(model) * _CACHE_SHARE_OF_FREE_MEMORY / bytes_per_token)


def _kv_width(layer: Any) -> int:
    """The width of a layer's keys, all heads together."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(heads * width)


def _free_memory_bytes(model: Any) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    return free_memory_bytes()


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
