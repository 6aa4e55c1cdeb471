"""Which of the known models are in memory: adapters that nobody asks for make way, and come back.

Those that the server began with stay. Of those that were loaded later a bounded number is in
memory, the least recently used goes first, and a request for one that is away waits for it. Belongs
to the event loop.
"""

import asyncio
import contextlib
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engine import (
    AdapterTakenError,
    Engine,
    Part,
    RestartingError,
    Served,
    StoppingError,
)
from serving.errors import ApiError, restarting, shown, stopping
from serving.metrics import Metrics
from serving.model.adapter_folder import adapter_folder
from serving.model.adapter_names import adapter_key
from tasks.contract.errors import KaitoflowError, Refused
from tasks.contract.programs.serving import AdapterSource, ServerConfig

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.02  # at whether an adapter that was in use is free


@dataclass
class _Loaded:
    """An adapter that came while the server serves; files: keep it on disk while it is known."""

    source: AdapterSource
    files: contextlib.ExitStack
    served: Served


class Residents:
    """The models of one engine, those included that are on disk alone."""

    def __init__(self, config: ServerConfig, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._most = config.max_loaded_adapters
        self._loaded: dict[str, _Loaded] = {}
        self._used: dict[str, int] = {}
        self._ticks = itertools.count()
        # By how many requests each is wanted, and by how many of these it is held in memory: who
        # still waits for one to come must not keep it from making way, or two wait for each other.
        self._wanted: Counter[str] = Counter()
        self._holds: Counter[str] = Counter()
        self._released = asyncio.Event()
        self._changing = asyncio.Lock()  # one after the other: each costs the others a moment

    @property
    def models(self) -> Mapping[str, Served]:
        """The models that may be asked, in memory or not; the base first."""
        begun_with = {
            version: served
            for version, served in self._engine.models.items()
            if version not in self._loaded
        }
        return begun_with | {version: each.served for version, each in self._loaded.items()}

    def is_in_memory(self, version: str) -> bool:
        """Whether a request for it waits for no load."""
        return version in self._engine.models

    @contextlib.asynccontextmanager
    async def held(self, version: str) -> AsyncIterator[None]:
        """Keep it in memory, and known, until the block ends; its rows keep it there beyond that.

        Raises: ApiError: it is gone, or does not come back.
        """
        self._wanted[version] += 1
        try:
            while not self.is_in_memory(version):
                await self._bring_back(version)
            self._used[version] = next(self._ticks)
            self._holds[version] += 1
            try:
                yield
            finally:
                self._holds[version] -= 1
        finally:
            self._wanted[version] -= 1
            self._released.set()

    async def load(self, version: str, path: str) -> None:
        """Have an adapter in memory that has scored a token.

        path: a folder below the server's, or an image. Raises: ApiError: nothing has changed.
        """
        fields = ("lora_name", "lora_path")
        await self._have(version, adapter_folder(self._config, path), said=path, fields=fields)

    async def blend(self, version: str, weights: Mapping[str, float]) -> None:
        """Have the weighted sum of known adapters in memory. Raises: ApiError, as `load`."""
        parts = [self._part(part, weight) for part, weight in weights.items()]
        said = "+".join(f"{weight:g}*{part}" for part, weight in weights.items())
        await self._have(version, self._blended(parts), said=said, fields=("name", "weights"))

    def _part(self, version: str, weight: float) -> Part:
        begun_with = {source.name: source for source in self._config.adapters}
        loaded = self._loaded.get(version)
        source = loaded.source if loaded else begun_with[version]
        return Part(replace(source, strength=weight * source.strength), self.models[version].digest)

    @contextlib.contextmanager
    def _blended(self, parts: Sequence[Part]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="blend-") as folder:
            self._engine.blend(parts, Path(folder) / "blend")
            yield Path(folder) / "blend"

    async def _have(
        self,
        version: str,
        folder: contextlib.AbstractContextManager[Path],
        *,
        said: str,
        fields: tuple[str, str],
    ) -> None:
        """Have the adapter of a folder, which stays for as long as the adapter is known.

        said: what was asked for. fields: of the request, its name and that.
        """
        try:
            with contextlib.ExitStack() as files:
                source = AdapterSource(
                    version, await asyncio.to_thread(files.enter_context, folder)
                )
                async with self._changing:
                    await self._add(source)
                    served = self._engine.models[version]
                    self._loaded[version] = _Loaded(source, files.pop_all(), served)
        except KaitoflowError as error:
            status = 400 if isinstance(error, Refused) else 503
            code = type(error).__name__
            raise ApiError(status, str(error), param=fields[1], code=code) from error
        except AdapterTakenError as error:
            raise ApiError(
                400,
                f"the adapter {shown(version)} was to be loaded, one of almost the same name is"
                " there; choose another",
                param=fields[0],
            ) from error
        except StoppingError as error:
            raise stopping() from error
        except RestartingError as error:
            raise restarting() from error
        log.info("adapter loaded version=%s path=%s", version, said)

    async def _add(self, source: AdapterSource) -> None:
        away = (each for each in self._loaded if not self.is_in_memory(each))
        if source.name not in self._loaded and adapter_key(source.name) in map(adapter_key, away):
            raise AdapterTakenError(source.name)
        await self._make_room()
        await asyncio.to_thread(self._engine.load_adapter, source)
        self._used[source.name] = next(self._ticks)

    async def _bring_back(self, version: str) -> None:
        async with self._changing:
            if self.is_in_memory(version):
                return
            if (loaded := self._loaded.get(version)) is None:
                raise ApiError(
                    404,
                    f"model {shown(version)} has just been unloaded; ask another",
                    code="model_not_found",
                )
            try:
                await self._add(loaded.source)
            except KaitoflowError as error:
                code = type(error).__name__
                raise ApiError(503, str(error), param="model", code=code) from error
            except StoppingError as error:
                raise stopping() from error
            except RestartingError as error:
                raise restarting() from error
            if self._engine.models[version].digest != loaded.served.digest:
                await self._let_go(version)
                raise ApiError(
                    503,
                    f"the adapter {shown(version)} was asked for, its files are others than those"
                    " that were loaded under this name; load it again with load_inplace",
                    param="model",
                    code="adapter_changed",
                )
        self._metrics.brought_back.labels(version).inc()
        log.info("adapter brought back version=%s", version)

    async def _make_room(self) -> None:
        """Have one adapter fewer in memory than may be; those in use are waited for."""
        while self._most is not None:
            there = [each for each in self._loaded if self.is_in_memory(each)]
            if len(there) < self._most:
                return
            load = self._engine.load()
            busy = load.running_models | load.waiting_models
            free = [each for each in there if not self._holds[each] and each not in busy]
            if free:
                await self._let_go(min(free, key=self._used.__getitem__))
            else:
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _let_go(self, version: str) -> None:
        await asyncio.shield(asyncio.wrap_future(self._engine.unload_adapter(version)))

    async def forget(self, version: str) -> None:
        """Know an adapter no more, once nobody holds it and its rows have ended."""
        while self._wanted[version]:
            self._released.clear()
            await self._released.wait()
        async with self._changing:
            loaded = self._loaded.pop(version, None)
            self._used.pop(version, None)
            is_there = self.is_in_memory(version)
            gone = self._engine.unload_adapter(version) if is_there else None
        if gone:
            await asyncio.shield(asyncio.wrap_future(gone))
        if loaded:
            loaded.files.close()
        log.info("adapter unloaded version=%s", version)
