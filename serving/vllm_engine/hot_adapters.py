"""The models that vLLM answers with: its base, and adapters that come and go while it does.

Any thread asks for a change; what is asked of vLLM for it is asked in the engine's loop.
"""

import asyncio
import contextlib
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from serving.engine import (
    AdapterTakenError,
    GenerationFailedError,
    ModelGoneError,
    RestartingError,
    Served,
)
from serving.model.adapter_names import adapter_key
from serving.model.layers import layers_in
from serving.tokens.as_trained import as_trained_of, expect_same_ids, expect_same_scores
from serving.tokens.prompts import Prompts
from serving.tokens.spelling import Ranked
from serving.vllm_engine.adapters import Held, check_for_vllm, held_of, needed_rank
from serving.vllm_engine.client import ConnectionBrokenError, RefusedError, VllmClient
from serving.vllm_engine.wire import likeliness
from serving.weights.marker import read_marker
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource, ServerConfig

RESTARTING = "vLLM has ended and is started again"

Outcome = TypeVar("Outcome")


class Call(Protocol):
    """Has a coroutine run in the engine's loop, from any thread."""

    def __call__(self, work: Coroutine[Any, Any, Outcome], /) -> "Future[Outcome]": ...


class HotAdapters:
    """Which models there are, and what vLLM has of their adapters."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        prompts: Prompts,
        dtype: str,
        call: Call,
        lock: threading.Lock,
        client: Callable[[], VllmClient | None],
        used: Callable[[], Collection[str]],
    ) -> None:
        """Know the base alone.

        Args: dtype: of the weights. lock: under which models are looked up. client: asks the vLLM
        that runs, if one does. used: models of the rows in work.
        Raises: AdapterMismatch: vLLM has no room for an adapter of the beginning.
        """
        self._config = config
        self._base = config.served_model_name
        self._prompts = prompts
        self._dtype = dtype
        self._call = call
        self._lock = lock
        self._client = client
        self._used = used
        self.max_rank = needed_rank(config.adapters, least=config.vllm.max_lora_rank)
        self._layers = layers_in(config.weights_dir)
        self._scratch = Path(tempfile.mkdtemp(prefix="kaitoflow-adapters-"))
        self._held: dict[str, Held] = {}
        self._moving: set[str] = set()  # adapters on their way in or out: their names are taken
        self._row_ended = asyncio.Event()
        self.models: Mapping[str, Served] = {self._base: Served(parent=None)}

    def name_in_vllm(self, model: str) -> str:
        """What vLLM calls a model."""
        held = self._held.get(model)
        return held.name if held else self._base

    def check_those_of_the_beginning(self) -> None:
        """Hold the adapters that the server begins with, for `restore`.

        Raises: AdapterMismatch, AdapterInvalid, ServedDiffers.
        """
        for source in self._config.adapters:
            self._held[source.name] = self._checked(source)

    async def restore(self, client: VllmClient) -> None:
        """Have a vLLM that has just started know all adapters.

        Raises: AdapterMismatch, in its words; ConnectionBrokenError.
        """
        for held in list(self._held.values()):
            await _load(client, held)

    async def prove_those_of_the_beginning(self) -> None:
        """Serve the adapters of the beginning, which have scored a token.

        Raises: AdapterMismatch, ServedDiffers.
        """
        for held in self._held.values():
            await self._prove(held)
        self.models = dict(self.models) | {
            name: self._served(held) for name, held in self._held.items()
        }

    def _served(self, held: Held) -> Served:
        return Served(parent=self._base, digest=held.digest)

    def load(self, source: AdapterSource) -> None:
        """Have one adapter more, which has scored a token. Raises: as `Engine.load_adapter`."""
        with self._lock:
            if adapter_key(source.name) in map(adapter_key, [*self.models, *self._moving]):
                raise AdapterTakenError(source.name)
            self._moving.add(source.name)
        try:
            self._prompts.add(source.name, self._prompts.template_of(source))
            try:
                held = self._checked(source)
                self._call(self._have(held)).result()
            except BaseException:
                self._prompts.remove(source.name)
                raise
            with self._lock:
                self.models = {**self.models, source.name: self._served(held)}
        finally:
            self._moving.discard(source.name)

    def _checked(self, source: AdapterSource) -> Held:
        """What vLLM is to have of an adapter. Raises: AdapterMismatch, ServedDiffers."""
        if not self._config.vllm.max_loras:
            raise AdapterMismatch(
                f"adapter {source.name} was to be served by vLLM",
                "this server was started without room for adapters",
                "serve the model by transformers (kaito.sh/runtime: transformers)",
            )
        marker = read_marker(self._config.weights_dir)
        check_for_vllm(source, self._layers, marker=marker, max_rank=self.max_rank)
        if trained := as_trained_of(source):
            expect_same_ids(source, trained, self._prompts)
        return held_of(source, scratch=self._scratch, trained=trained)

    async def _have(self, held: Held) -> None:
        """Have an adapter that has scored a token."""
        client = self._client()
        if client is None:
            raise RestartingError(RESTARTING)
        try:
            await _load(client, held)
            self._held[held.source.name] = held  # a vLLM that is started meanwhile has it, too
            await self._prove(held)
        except BaseException as error:
            self._held.pop(held.source.name, None)
            await self._drop(held)
            if isinstance(error, ConnectionBrokenError):
                raise RestartingError(RESTARTING) from error
            raise

    async def _prove(self, held: Held) -> None:
        """Score a token behind the trainer's prompts, or any where there are none.

        Raises: AdapterMismatch, ServedDiffers.
        """
        trained, hello = held.trained, self._prompts.encode_text("Hello")
        asked: list[tuple[Sequence[int], list[int]]] = [(hello, [])]
        if trained:
            asked = [(each.ids, [token for token, _ in each.likeliest]) for each in trained.seen]
        try:
            scores = await asyncio.gather(*(self._likeliness(held, *each) for each in asked))
        except GenerationFailedError as error:
            raise _unloadable(held, str(error)) from error
        logprobs = [dict(each.top) for each in scores]
        for (_, tokens), here in zip(asked, logprobs, strict=True):
            if not all(math.isfinite(here.get(token, math.nan)) for token in tokens):
                raise _no_numbers(held)
        if trained:
            expect_same_scores(held.source, trained, logprobs, dtype=self._dtype)

    async def _likeliness(self, held: Held, ids: Sequence[int], tokens: Sequence[int]) -> Ranked:
        """What the adapter gives the likeliest token behind a prompt, and these ones."""
        client = self._client()
        if client is None:
            raise ConnectionBrokenError(RESTARTING)
        asked = likeliness(ids, tokens, model=held.name)
        async with contextlib.aclosing(client.steps(asked)) as steps:
            async for step in steps:
                ranked = step.ranked[0] if step.ranked else None
                if ranked and math.isfinite(ranked.logprob):
                    return ranked
        raise _no_numbers(held)

    def unload(self, name: str) -> "Future[None]":
        """Have an adapter no more, once nothing is of it. Raises: ModelGoneError."""
        with self._lock:
            if name == self._base or name not in self.models:
                raise ModelGoneError(name)
            self.models = {key: each for key, each in self.models.items() if key != name}
            self._moving.add(name)
        return self._call(self._leave(name))

    async def _leave(self, name: str) -> None:
        while name in self._used():
            self._row_ended.clear()
            await self._row_ended.wait()
        await self._drop(self._held.pop(name))
        self._prompts.remove(name)
        self._moving.discard(name)

    def look_for_unused(self) -> None:
        """Note, in the engine's loop, that a row has ended, for which an unload may wait."""
        self._row_ended.set()

    async def _drop(self, held: Held) -> None:
        """Free an adapter in vLLM, if it has it, and what was written for it."""
        if client := self._client():
            with contextlib.suppress(RefusedError, ConnectionBrokenError):
                await client.unload_adapter(held.name)
        if held.folder != held.source.path:
            shutil.rmtree(held.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave no file behind."""
        shutil.rmtree(self._scratch, ignore_errors=True)


async def _load(client: VllmClient, held: Held) -> None:
    """Have vLLM load an adapter. Raises: AdapterMismatch, in its words; ConnectionBrokenError."""
    try:
        await client.load_adapter(held.name, str(held.folder))
    except RefusedError as error:
        raise _unloadable(held, str(error)) from error


def _unloadable(held: Held, said: str) -> AdapterMismatch:
    return AdapterMismatch(
        f"adapter {held.source.name} was to be served by vLLM",
        f"it does not load it ({said})",
        "serve it over the model it was tuned on, or have it served by transformers"
        " (kaito.sh/runtime: transformers)",
    )


def _no_numbers(held: Held) -> AdapterMismatch:
    return AdapterMismatch(
        f"adapter {held.source.name} was asked for",
        "its scores for a token are no numbers",
        "tune it again",
    )
