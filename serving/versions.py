"""Which loaded model answers to which name, while names are moved and adapters come and go.

A version is a model as the engine knows it: its weights never change. A name is what requests say;
a version answers to its own one until that is pointed at another. Belongs to the event loop.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Mapping

from serving.api.answers import Answering
from serving.canary import Canary, Guard, Verdict
from serving.engine import Engine, Served
from serving.errors import ApiError, shown
from serving.metrics import Metrics
from serving.residents import Residents
from tasks.contract.programs.serving import ServerConfig

log = logging.getLogger(__name__)

_IN_PLACE = "#"  # quickstart#2: weights that came in place of others; such a version has no name


class Versions:
    """The names of one engine."""

    def __init__(self, config: ServerConfig, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._default = config.default_model or config.served_model_name
        self._pointers: dict[str, str] = {}
        self._former: dict[str, str] = {}
        self._canaries: dict[str, Canary] = {}
        self._hidden: set[str] = set()  # on their way in or out
        self._residents = Residents(config, engine, metrics)
        self._loading = asyncio.Lock()
        self._numbers = itertools.count(2)
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> Mapping[str, Served]:
        """Each version that may be asked, in memory or on disk; the base first."""
        return self._residents.models

    def is_in_memory(self, version: str) -> bool:
        """Whether a request for a version waits for no load."""
        return self._residents.is_in_memory(version)

    def names(self) -> Mapping[str, str]:
        """Each name that may be asked, with its version."""
        own = {
            version: version
            for version in self.models
            if version not in self._hidden and _IN_PLACE not in version
        }
        return own | self._pointers

    @contextlib.asynccontextmanager
    async def answering(
        self, asked: str | None, *, wish: str | None = None
    ) -> AsyncIterator[Answering]:
        """Who answers, in memory; it stays so until the block ends, and then until its rows have.

        wish: to be the canary's, `always` or `never`.
        Raises: ApiError: 404 with the names there are; 503 of one that does not come back.
        """
        name = asked or self._default
        version, now_s = self.version_of(name), time.monotonic()
        canary = self._canaries.get(name)
        if canary and canary.takes(wish, now_s=now_s):
            version = canary.candidate
        digest = self.models[version].digest

        def report(tokens: int | None) -> None:
            if tokens is None:
                self._metrics.failed.labels(version).inc()
            if canary:
                seconds, tried = time.monotonic() - now_s, version == canary.candidate
                canary.count(is_candidate=tried, seconds=seconds, tokens=tokens)

        who = Answering(name, version, f"fp_{digest[:12]}" if digest else None, report)
        try:
            async with self._residents.held(version):
                yield who
        except ApiError as error:
            error.headers = who.headers | (error.headers or {})
            raise

    @contextlib.asynccontextmanager
    async def held(self, name: str | None) -> AsyncIterator[str]:
        """The version behind a name, as in `version_of`, in memory until the block ends."""
        version = self.version_of(name)
        async with self._residents.held(version):
            yield version

    def version_of(self, name: str | None) -> str:
        """The version behind a name; None = the default one. Raises: ApiError 404."""
        names, name = self.names(), name or self._default
        if name not in names:
            raise ApiError(
                404,
                f"model {shown(name)} was asked for, this server has: {', '.join(names)}",
                param="model",
                code="model_not_found",
            )
        return names[name]

    async def load(self, name: str, path: str, *, in_place: bool) -> None:
        """Have an adapter answer to the name, once it has scored a token.

        in_place: a name that is taken goes on with the new weights; requests under way end on the
            old ones, which go then.
        Raises: ApiError: nothing has changed.
        """
        async with self._loading:  # one after the other: each costs the others a moment
            former = self.names().get(name)
            if former is not None and (not in_place or former == self._config.served_model_name):
                raise ApiError(
                    400,
                    f"the adapter {shown(name)} was to be loaded, the name is taken; choose another"
                    " or, for an adapter, set load_inplace",
                    param="lora_name",
                )
            is_free = name not in self.models and name not in self._hidden
            version = name if is_free else f"{name}{_IN_PLACE}{next(self._numbers)}"
            self._hidden.add(version)
            try:
                await self._residents.load(version, path)
                if version != name:
                    self._pointers[name] = version
            finally:
                self._hidden.discard(version)
        if former and (former == name or _IN_PLACE in former) and not self._is_needed(former):
            self._let_go(former)

    async def blend(self, name: str, weights: Mapping[str, float]) -> None:
        """Have the weighted sum of named adapters answer to a new name, once it has scored a token.

        Raises: ApiError: nothing has changed.
        """
        async with self._loading:
            names = self.names()
            if name in {*names, *self.models} or name in self._hidden:
                raise ApiError(
                    400,
                    f"the adapter {shown(name)} was to be blended, the name is taken; choose"
                    " another",
                    param="name",
                )
            versions: dict[str, float] = {}
            for part, weight in weights.items():
                version = self.version_of(part)
                if version == self._config.served_model_name:
                    raise ApiError(
                        400,
                        f"{shown(part)} was to be blended, the base model answers to it, which each"
                        " blend is added to; name adapters alone",
                        param="weights",
                    )
                versions[version] = versions.get(version, 0.0) + weight
            self._hidden.add(name)
            try:
                await self._residents.blend(name, versions)
            finally:
                self._hidden.discard(name)

    async def unload(self, name: str) -> None:
        """Have an adapter no more; returns when the last request on it has ended.

        Where the name points at another version, that one goes on answering to it.
        Raises: ApiError: nothing has changed.
        """
        names = self.names()
        if name not in names or name == self._config.served_model_name:
            known = ", ".join(each for each in names if each != self._config.served_model_name)
            raise ApiError(
                404,
                f"the adapter {shown(name)} was to be unloaded, this server has: {known or 'none'}",
                param="lora_name",
                code="adapter_not_found",
            )
        own = name in self.models and name not in self._hidden
        self._expect_unneeded(name, version=name if own else names[name])
        if own:
            await self._go(name)
        elif _IN_PLACE in (version := self._pointers.pop(name)):
            await self._go(version)

    def _expect_unneeded(self, name: str, *, version: str) -> None:
        pointing = [each for each, at in self._pointers.items() if at == version and each != name]
        if version in self._tried():
            pointing.append("a canary")
        if not pointing and name == self._default and self._pointers.get(name, name) == version:
            pointing = ["a request without a model"]
        if pointing:
            raise ApiError(
                409,
                f"the adapter {shown(name)} was to be unloaded, {' and '.join(pointing)} is"
                " answered by it; point the name at another version first",
                param="lora_name",
            )

    def promote(self, name: str, version: str, *, unload_former: bool) -> None:
        """Have the version answer to the name from the next request on; those under way go on.

        unload_former: free what answered until now, once the last request on it has ended.
        Raises: ApiError: nothing has changed.
        """
        self._expect_candidate(name, version)
        former = self.names().get(name)
        canary = self._canaries.pop(name, None)
        if canary:
            self._end(canary, "promoted" if canary.candidate == version else "stopped", "")
        self._point(name, version)
        log.info("name moved name=%s from=%s to=%s", name, former, version)
        if former is None or former == version:
            return
        self._former[name] = former
        if unload_former and not self._is_needed(former):
            self._let_go(former)

    def roll_back(self, name: str) -> str:
        """The version that answers to the name again, as before the last promotion.

        Raises: ApiError 409: it is gone.
        """
        former = self._former.get(name)
        if former is None or former not in self.models or former in self._hidden:
            raise ApiError(
                409,
                f"{shown(name)} was to go back, {former or 'no version before'} is loaded no more;"
                " load the adapter again and promote it",
                param="name",
            )
        self.promote(name, former, unload_former=False)
        return former

    def try_out(self, name: str, version: str, *, share: float, for_s: float, guard: Guard) -> None:
        """Send a share of the name's requests to a version, until the time or the guard ends it.

        In place of a canary that runs. Raises: ApiError: nothing has changed.
        """
        self._expect_candidate(name, version)
        if self.version_of(name) == version:
            raise ApiError(
                409,
                f"{shown(version)} was to be tried out, it answers to {name} already; name another",
                param="version",
            )
        self.stop(name)
        self._canaries[name] = Canary(version, share, time.monotonic() + for_s, guard)

    def stop(self, name: str) -> None:
        """Have no canary run of the name."""
        if canary := self._canaries.get(name):
            self._end(canary, "stopped", "")

    def canary_of(self, name: str) -> Canary | None:
        """The name's last canary, whatever became of it."""
        canary = self._canaries.get(name)
        if canary:
            canary.look(now_s=time.monotonic())
        return canary

    def former_of(self, name: str) -> str | None:
        """The version that a rollback of the name goes to."""
        former = self._former.get(name)
        return former if former in self.models and former not in self._hidden else None

    def _end(self, canary: Canary, verdict: Verdict, reason: str) -> None:
        canary.look(now_s=time.monotonic())
        canary.end(verdict, reason)

    def _point(self, name: str, version: str) -> None:
        if name == version:
            self._pointers.pop(name, None)
        else:
            self._pointers[name] = version

    def _expect_candidate(self, name: str, version: str) -> None:
        if name == self._config.served_model_name:
            raise ApiError(
                400,
                f"{name} is the base model's name; point another name at the adapter",
                param="name",
            )
        if version not in self.models or version in self._hidden:
            known = [each for each in self.models if each not in self._hidden]
            raise ApiError(
                404,
                f"the version {shown(version)} was asked for, this server has: {', '.join(known)};"
                " load the adapter first",
                param="version",
                code="adapter_not_found",
            )

    def _is_needed(self, version: str) -> bool:
        """Whether a name that is not the version's own, the default one or a canary wants it."""
        default = self.names().get(self._default)
        named = [self._config.served_model_name, default, *self._pointers.values()]
        return version in named or version in self._tried()

    def _tried(self) -> set[str]:
        """The candidates of canaries that run."""
        found = filter(None, map(self.canary_of, self._canaries))
        return {canary.candidate for canary in found if canary.verdict == "running"}

    def _let_go(self, version: str) -> None:
        """Unload in the background: what still runs may take minutes."""
        task = asyncio.create_task(self._go(version))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _go(self, version: str) -> None:
        self._hidden.add(version)
        try:
            await self._residents.forget(version)
        finally:
            self._hidden.discard(version)
