"""An `Engine` that has vLLM generate.

One thread owns what talks to vLLM, in an event loop of its own: the process (`keeper.py`), its
connections and the rows in work. A row is one request of vLLM's, so that each is given up, seeded
and told of by itself.
"""

import asyncio
import contextlib
import copy
import functools
import json
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from serving.engine import (
    BrokenError,
    Generation,
    GenerationFailedError,
    Load,
    ModelGoneError,
    Part,
    QueueFullError,
    RestartingError,
    Sampling,
    Served,
    StoppingError,
    Stream,
)
from serving.metrics import Metrics
from serving.model.tokenizer import load_tokenizer
from serving.tokens.blends import blend_parts
from serving.tokens.defaults import generation_defaults
from serving.tokens.grammars import Grammars
from serving.tokens.prompts import Prompts
from serving.vllm_engine.client import ConnectionBrokenError
from serving.vllm_engine.hot_adapters import RESTARTING, HotAdapters
from serving.vllm_engine.keeper import Keeper
from serving.vllm_engine.limits import expect_computed, guesses_ahead
from serving.vllm_engine.metrics import beside, families
from serving.vllm_engine.rows import Row, Writer
from serving.vllm_engine.wire import body
from tasks.contract.errors import InternalError, KaitoflowError, WeightsUnavailable
from tasks.contract.programs.serving import AdapterSource, ServerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

STOPPING = "the server is stopping"
_METRICS_S = 2.0
_CLOSE_S = 40.0
# In vLLM's words for a fault of all that it does, after which it ends.
_DYING = ("EngineCore", "EngineDead")


class VllmEngine:
    """An `Engine`; made by `start_engine`."""

    def __init__(
        self, config: ServerConfig, tokenizer: "PreTrainedTokenizerBase", *, metrics: Metrics
    ) -> None:
        """Have what needs no vLLM yet. Raises: AdapterMismatch, WeightsUnavailable."""
        self._config = config
        self._metrics = metrics
        self._base = config.served_model_name
        self._model_config = _model_config(config.weights_dir)
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.prompts = Prompts(tokenizer, adapters=config.adapters)
        self.vocabulary_tokens = _vocabulary_tokens(self._model_config, tokenizer)
        self.context_tokens = config.max_context_tokens or 0  # vLLM's word, once it is there
        self.most_rows = config.max_concurrency + config.max_queue
        defaults = generation_defaults(config.weights_dir, tokenizer)
        self.default_sampling: Sampling = defaults.sampling
        # Each a tokenizer of its own, since threads cannot share one: see Prompts.
        self._grammars = Grammars(
            copy.deepcopy(tokenizer),
            vocabulary_tokens=self.vocabulary_tokens,
            stop_ids=defaults.stop_ids,
        )
        self._writer = Writer(copy.deepcopy(tokenizer), stop_ids=defaults.stop_ids, metrics=metrics)
        self._guesses_ahead = guesses_ahead(config.vllm.flags)
        self._lock = threading.Lock()
        self._rows: set[Row] = set()
        self._closing = False
        self.fault: KaitoflowError | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._adapters = HotAdapters(
            config,
            prompts=self.prompts,
            dtype=_dtype(config, self._model_config),
            call=self._call,
            lock=self._lock,
            client=lambda: self._keeper.client,
            used=lambda: {row.generation.model for row in list(self._rows)},
        )
        self._keeper = Keeper(
            config,
            max_lora_rank=self._adapters.max_rank,
            restore=self._adapters.restore,
            is_asked=lambda: bool(self._rows),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    @property
    def models(self) -> Mapping[str, Served]:
        return self._adapters.models

    @property
    def context_characters(self) -> int:
        return self.context_tokens * self._longest

    def check_schema(self, schema: str) -> None:
        self._grammars.check(schema)

    def check_grammar(self, grammar: str) -> None:
        self._grammars.check_calls(grammar)

    def begin(self) -> None:
        """Have vLLM serve the base and the adapters of the beginning.

        Raises: KaitoflowError: an adapter, before vLLM is started; why it ended; ServedDiffers.
        """
        self._adapters.check_those_of_the_beginning()
        self._call(self._keeper.begin()).result()
        self.context_tokens = self._call(self._find_context()).result()
        self._call(self._adapters.prove_those_of_the_beginning()).result()
        self._call(self._keep()).result()

    def _call(self, work: Coroutine[Any, Any, Outcome]) -> "Future[Outcome]":
        if self._loop.is_closed():
            work.close()
            raise StoppingError(STOPPING)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _find_context(self) -> int:
        assert self._keeper.client
        known = await self._keeper.client.context_tokens()
        return min(known, self._config.max_context_tokens or known)

    async def _keep(self) -> None:
        """Watch vLLM from now on, beside all else."""

        async def keep() -> None:
            try:
                self.fault = await self._keeper.keep()
            except Exception as error:  # the server ends with it, instead of being deaf
                log.exception("vllm is watched no more")
                self.fault = InternalError("vLLM was watched", repr(error), "please report it")

        self._keeping = asyncio.get_running_loop().create_task(keep())

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        with contextlib.suppress(TimeoutError):
            self._call(self._end()).result(timeout=_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_CLOSE_S)
        self._loop.close()
        self._adapters.close()

    async def _end(self) -> None:
        if self._keeping:
            self._keeping.cancel()
        for row in list(self._rows):
            row.stream.deliver(StoppingError(STOPPING))
        await self._keeper.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @property
    def is_broken(self) -> bool:
        return self._keeper.client is None

    def load(self) -> Load:
        with self._lock:
            rows = [row for row in self._rows if not row.stream.cancelled]
        running = [row for row in rows if row.generated]
        waiting = [row for row in rows if not row.generated]
        return Load(
            len(running),
            len(waiting),
            self._keeper.cache_usage,
            running_models=frozenset(row.generation.model for row in running),
            waiting_models=frozenset(row.generation.model for row in waiting),
        )

    def submit(self, *generations: Generation) -> Stream:
        for generation in generations:
            expect_computed(generation, guesses=self._guesses_ahead)
        stream = Stream(sum(each.n for each in generations), idle_s=self._config.idle_s)
        rows = self._writer.begin(generations, stream)
        with self._lock:
            if self._closing:
                raise StoppingError(STOPPING)
            if self.fault:
                raise BrokenError(self.fault.found)
            if self.is_broken:
                raise RestartingError(RESTARTING)
            for generation in generations:
                if generation.model not in self.models:
                    raise ModelGoneError(generation.model)
            wanted = sum(not row.stream.cancelled for row in self._rows)
            if wanted + len(rows) > self.most_rows:
                raise QueueFullError
            self._rows.update(rows)
        for generation in generations:
            self._metrics.prompt_tokens.labels(generation.model).inc(len(generation.prompt_ids))
        self._loop.call_soon_threadsafe(self._begin_rows, rows, stream)
        return stream

    def _begin_rows(self, rows: Sequence[Row], stream: Stream) -> None:
        tasks = {self._loop.create_task(self._answer(row)): row for row in rows}

        def give_up() -> None:
            for task in tasks:
                task.cancel()

        def stop() -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(give_up)

        for task, row in tasks.items():  # one that is cancelled before it begins runs no line
            task.add_done_callback(functools.partial(self._forget, row))
        stream.when_cancelled(stop)
        if stream.cancelled:
            give_up()

    def _forget(self, row: Row, _task: "asyncio.Task[None]") -> None:
        with self._lock:
            self._rows.discard(row)
        self._adapters.look_for_unused()

    async def _answer(self, row: Row) -> None:
        """Have vLLM write one continuation; whatever becomes of it, the stream is told."""
        try:
            await self._write(row)
        except (ConnectionBrokenError, GenerationFailedError) as error:
            row.stream.deliver(await self._told(row, error))
        except Exception as error:
            log.exception("row failed model=%s", row.generation.model)
            row.stream.deliver(GenerationFailedError(str(error)))

    async def _write(self, row: Row) -> None:
        client = self._keeper.client
        if client is None:
            raise RestartingError(RESTARTING)
        asked = body(
            row.generation,
            model=self._adapters.name_in_vllm(row.generation.model),
            turn=row.turn,
            stop_ids=row.stop_ids,
            decode=self.prompts.decode,
        )
        async with contextlib.aclosing(client.steps(asked)) as steps:
            async for step in steps:
                self._keeper.heard()
                if self._writer.write(row, step):
                    return
        raise GenerationFailedError("vLLM said that it was done before it said why")

    async def _told(self, row: Row, error: Exception) -> GenerationFailedError:
        """A fault as whoever waits for the answer is told it."""
        if self._closing:
            return StoppingError(STOPPING)
        if isinstance(error, RestartingError):
            return error
        is_dying = isinstance(error, ConnectionBrokenError) or any(
            word in str(error) for word in _DYING
        )
        if is_dying and await self._keeper.has_died():
            return RestartingError(RESTARTING)
        log.error("row failed model=%s: %s", row.generation.model, error)
        return GenerationFailedError(str(error))

    async def own_metrics(self) -> str:
        page = asyncio.wrap_future(self._call(self._page()))
        with contextlib.suppress(TimeoutError, ConnectionBrokenError):
            text = await asyncio.wait_for(page, _METRICS_S)
            return beside(text, taken=families(self._metrics.text().decode()))
        return ""

    async def _page(self) -> str:
        return await self._keeper.client.metrics() if self._keeper.client else ""

    def load_adapter(self, source: AdapterSource) -> None:
        self._adapters.load(source)

    def blend(self, parts: Sequence[Part], folder: Path) -> None:
        blend_parts(parts, folder, prompts=self.prompts)

    def unload_adapter(self, name: str) -> "Future[None]":
        return self._adapters.unload(name)


def _model_config(weights_dir: Path) -> dict[str, Any]:
    """The model's own config.json. Raises: WeightsUnavailable."""
    try:
        config: dict[str, Any] = json.loads((weights_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"the model in {weights_dir} was asked for",
            f"its config.json cannot be read ({error})",
            "the folder needs config.json and safetensors of an architecture that vLLM knows",
        ) from error
    return config


def _vocabulary_tokens(config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> int:
    """How many token ids the model has; those of its tokenizer where its config does not say."""
    text = config.get("text_config") or {}
    return int(text.get("vocab_size") or config.get("vocab_size") or len(tokenizer))


def _dtype(config: ServerConfig, model_config: Mapping[str, Any]) -> str:
    """The number format of the weights, as a flag or the model's folder names it."""
    asked = config.vllm.flags.get("dtype") or "auto"
    own = model_config.get("dtype") or model_config.get("torch_dtype")
    return str(own or "bfloat16") if asked == "auto" else asked


def start_engine(config: ServerConfig, *, metrics: Metrics) -> VllmEngine:
    """An engine whose vLLM is ready, with its adapters; takes seconds to many minutes.

    Raises: KaitoflowError: what of the model, an adapter, a flag or the machine is at fault.
    """
    try:
        tokenizer = load_tokenizer(config.weights_dir)
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"the tokenizer in {config.weights_dir} was asked for",
            f"transformers cannot load it ({error})",
            "the folder needs the tokenizer's files as transformers writes them",
        ) from error
    engine = VllmEngine(config, tokenizer, metrics=metrics)
    try:
        engine.begin()
    except BaseException:
        engine.close()
        raise
    return engine
