"""Continuous batching over any transformers causal language model, on CPU and GPU.

One thread owns the model. Each turn it reads on in the prompts of rows that have joined, in parts,
and makes one step for all other rows together; rows join and leave between steps. Rows of different
adapters share a batch. Each row has its own positions, mask and random numbers, so that in exact
arithmetic it says what it says alone; in bfloat16 a batch rounds otherwise, which can turn a near
tie.
"""

import copy
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from serving.engine import (
    BrokenError,
    Generation,
    GenerationFailedError,
    Load,
    ModelGoneError,
    Part,
    Served,
    StoppingError,
    Stream,
)
from serving.metrics import Metrics
from serving.model.adapters import load_adapters
from serving.model.gpus import require_gpus
from serving.model.loading import (
    find_device,
    load_base_model,
    preferred_dtype,
    quiet_libraries,
)
from serving.model.tokenizer import load_tokenizer
from serving.tokens.blends import blend_parts
from serving.tokens.defaults import generation_defaults
from serving.tokens.grammars import Grammars
from serving.tokens.prompts import Prompts
from serving.transformers_engine.batch import Batch
from serving.transformers_engine.capacity import cache_tokens, context_tokens, shares
from serving.transformers_engine.faults import free_frames, told
from serving.transformers_engine.forward import Forward
from serving.transformers_engine.hot_adapters import HotAdapters
from serving.transformers_engine.prefixes import Prefixes
from serving.transformers_engine.reading import Reader
from serving.transformers_engine.rows import Row, Writer
from serving.transformers_engine.scheduling import Scheduler
from tasks.contract.errors import EngineEnded, KaitoflowError, WeightsUnavailable
from tasks.contract.programs.serving import AdapterSource, ServerConfig

log = logging.getLogger(__name__)

_BROKEN_AFTER_FAILURES = 3
# Of a prompt in one go, while others wait for a next token: about a fifth of a second of a small
# model on two cores, and what a GPU needs to be busy.
_PART_TOKENS_CPU, _PART_TOKENS_GPU = 128, 2048
_STOPPING = "the server is stopping"


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
        self._config = config
        self._metrics = metrics
        self.prompts = Prompts(tokenizer, adapters=config.adapters)
        self.vocabulary_tokens = int(model.get_input_embeddings().weight.shape[0])
        kept_tokens, self._cache_tokens = shares(cache_tokens(model))
        self.context_tokens = min(context_tokens(config, model), self._cache_tokens)
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.context_characters = self.context_tokens * longest
        self.most_rows = config.max_concurrency + config.max_queue
        defaults = generation_defaults(config.weights_dir, tokenizer)
        stop_ids, self.default_sampling = defaults.stop_ids, defaults.sampling
        own_tokenizer = copy.deepcopy(tokenizer)  # this thread's own: see Prompts
        self._grammars = Grammars(
            own_tokenizer, vocabulary_tokens=self.vocabulary_tokens, stop_ids=stop_ids
        )
        self._writer = Writer(
            own_tokenizer, grammars=self._grammars, stop_ids=stop_ids, metrics=metrics
        )
        forward = Forward(model, base=config.served_model_name)
        self._prefixes = Prefixes(most_tokens=kept_tokens, identity=forward.identity)
        self._batch = Batch(
            forward,
            Reader(forward, self._prefixes, self._writer),
            self._writer,
            part_tokens=_PART_TOKENS_CPU if model.device.type == "cpu" else _PART_TOKENS_GPU,
        )
        self._scheduler = Scheduler(
            max_concurrency=config.max_concurrency,
            max_queue=config.max_queue,
            cache_tokens=self._cache_tokens,
            can_mix=forward.can_mix,
        )
        self._failures = 0
        self.fault: KaitoflowError | None = None
        self._closing = False
        self._wake = threading.Condition()
        self._adapters = HotAdapters(
            config, forward=forward, prompts=self.prompts, wake=self._wake, used=self._used
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def models(self) -> Mapping[str, Served]:
        return self._adapters.models

    @property
    def is_broken(self) -> bool:
        return self._failures >= _BROKEN_AFTER_FAILURES or not self._thread.is_alive()

    def check_schema(self, schema: str) -> None:
        self._grammars.check(schema)

    def check_grammar(self, grammar: str) -> None:
        self._grammars.check_calls(grammar)

    def load(self) -> Load:
        usage = self._batch.tokens / self._cache_tokens
        with self._wake:  # a row that begins to be worked at is in one of the two
            running, waiting = list(self._batch.rows), list(self._scheduler.waiting)
        return Load(
            len(running),
            self._scheduler.wanted,
            usage,
            running_models=_models_of(running),
            waiting_models=_models_of(waiting),
        )

    async def own_metrics(self) -> str:
        return self._prefixes.metrics()

    def expect_as_trained(self) -> None:
        """Nothing if the adapters of the beginning answer as where they were tuned.

        Raises: ServedDiffers, AdapterInvalid.
        """
        self._adapters.expect_as_trained()

    def load_adapter(self, source: AdapterSource) -> None:
        self._adapters.load(source)

    def blend(self, parts: Sequence[Part], folder: Path) -> None:
        blend_parts(parts, folder, prompts=self.prompts)

    def unload_adapter(self, name: str) -> "Future[None]":
        return self._adapters.unload(name)

    def _used(self) -> frozenset[str]:
        """The models of all continuations that are in work or wait."""
        return _models_of([*self._batch.rows, *self._scheduler.waiting])

    def submit(self, *generations: Generation) -> Stream:
        stream = Stream(sum(each.n for each in generations), idle_s=self._config.idle_s)
        rows = self._writer.begin(generations, stream)
        with self._wake:
            if self._closing:
                raise StoppingError(_STOPPING)
            if self.fault:
                raise BrokenError(self.fault.found)
            for generation in generations:
                if generation.model not in self.models:
                    raise ModelGoneError(generation.model)
            self._scheduler.add(rows, in_work=len(self._batch.rows))
            self._wake.notify()
        for generation in generations:
            self._metrics.prompt_tokens.labels(generation.model).inc(len(generation.prompt_ids))
        return stream

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        """Work until told to stop, or until nothing can be generated any more: then say so."""
        try:
            self._work()
        except BaseException as error:
            log.exception("the engine's thread has ended")
            self.fault = _ended(f"its thread ended: {error!r}")
        ending: GenerationFailedError = StoppingError(_STOPPING)
        if self.fault:
            ending = BrokenError(self.fault.found)
        self._give_up(ending)
        self._adapters.stop(StoppingError(str(ending)))

    def _work(self) -> None:
        while self._wait_for_work():
            self._adapters.make_due_changes()
            try:
                self._turn()
                self._failures = 0
            except Exception as error:  # noqa: BLE001 - told to the rows; the next may do well
                self._fail(error)

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(
                lambda: (
                    self._closing
                    or self._batch.rows
                    or self._scheduler.waiting
                    or self._adapters.due()
                )
            )
            return not self._closing

    @torch.inference_mode()
    def _turn(self) -> None:
        self._batch.drop_cancelled()
        with self._wake:  # a row that is seen elsewhere waits or is in work, at every moment
            joining = self._scheduler.admit(self._batch.rows)
            self._batch.rows = [*self._batch.rows, *joining]
        self._batch.turn()

    def _fail(self, error: Exception) -> None:
        """Give every row in work up, and start clean: what the cache holds cannot be trusted."""
        self._failures += 1
        log.error(
            "generation failed rows=%d failures=%d",
            len(self._batch.rows),
            self._failures,
            exc_info=error,
        )
        self._give_up(told(error), waiting=False)
        free_frames(error)

    def _give_up(self, error: GenerationFailedError, *, waiting: bool = True) -> None:
        with self._wake:
            rows = [*self._batch.rows, *(self._scheduler.clear() if waiting else ())]
            self._batch.clear()
        for row in rows:
            row.stream.deliver(error)


def _ended(found: str) -> KaitoflowError:
    return EngineEnded("tokens were to be computed", found, "read the trace in the server's log")


def _models_of(rows: Sequence[Row]) -> frozenset[str]:
    return frozenset(row.generation.model for row in rows)


def load_engine(
    config: ServerConfig, *, metrics: Metrics, dtype: torch.dtype | None = None
) -> TransformersEngine:
    """An engine with the model and its adapters in memory; takes seconds to minutes.

    dtype: None for the device's preferred one.
    Raises: WeightsUnavailable, AdapterMismatch, AdapterInvalid, ServedDiffers, GpuIncompatible.
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
    try:
        engine.expect_as_trained()
    except KaitoflowError:
        engine.close()
        raise
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
