"""vLLM's HTTP API, asked over loopback. Belongs to one event loop."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import aiohttp

from serving.engine import GenerationFailedError
from serving.vllm_engine.process import VllmProcess
from serving.vllm_engine.wire import Events, Step, fault_told, step_of

_ANSWER_S = 10.0  # of a look; it answers them while it generates
_LOAD_S = 600.0  # of an adapter, whose files may be read from a slow disk


class ConnectionBrokenError(Exception):
    """vLLM does not answer, or stopped in the middle of an answer."""


class RefusedError(Exception):
    """vLLM answered that it does not do what was asked; the message is its own."""


class VllmClient:
    """Asks one process of vLLM; to be closed."""

    def __init__(self, process: VllmProcess) -> None:
        """Ask it with its own key, by as many connections as are needed."""
        self._url = process.url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {process.key}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_S),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close its connections, which ends what is asked by them."""
        await self._session.close()

    async def health(self) -> int:
        """The status of its health: 200 = it can generate, 503 = never again, 0 = no answer."""
        try:
            return (await self._look("/health"))[0]
        except ConnectionBrokenError:
            return 0

    async def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer. Raises: ConnectionBrokenError."""
        _, text = await self._look("/v1/models")
        return int(json.loads(text)["data"][0]["max_model_len"])

    async def metrics(self) -> str:
        """What it tells Prometheus. Raises: ConnectionBrokenError."""
        return (await self._look("/metrics"))[1]

    async def _look(self, path: str) -> tuple[int, str]:
        with _broken():
            async with asyncio.timeout(_ANSWER_S), self._session.get(self._url + path) as answer:
                return answer.status, await answer.text()

    async def load_adapter(self, name: str, path: str) -> None:
        """Have an adapter of this name, out of a folder.

        Raises: RefusedError; ConnectionBrokenError.
        """
        await self._change("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def unload_adapter(self, name: str) -> None:
        """Have an adapter no more. Raises: RefusedError; ConnectionBrokenError."""
        await self._change("/v1/unload_lora_adapter", {"lora_name": name})

    async def _change(self, path: str, body: Mapping[str, Any]) -> None:
        with _broken():
            async with (
                asyncio.timeout(_LOAD_S),
                self._session.post(self._url + path, json=body) as answer,
            ):
                text = await answer.text()
        if answer.status != 200:
            raise RefusedError(_told(text))

    async def steps(self, body: Mapping[str, Any]) -> AsyncGenerator[Step]:
        """What a continuation's events add, until it has ended; closed = given up.

        Raises: GenerationFailedError: vLLM says no, or tells a fault. ConnectionBrokenError.
        """
        events = Events()
        with _broken():
            async with self._session.post(f"{self._url}/v1/completions", json=body) as answer:
                if answer.status != 200:
                    raise GenerationFailedError(_told(await answer.text()))
                async for data in answer.content.iter_any():
                    for event in events.read(data):
                        yield step_of(event)
                    if events.is_done:
                        return
        raise ConnectionBrokenError("the stream ended before its end was told")


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ConnectionBrokenError(str(error) or type(error).__name__) from error
    except (KeyError, ValueError, TypeError) as error:
        raise GenerationFailedError(f"vLLM's answer cannot be read ({error!r})") from error


def _told(text: str) -> str:
    """What a refusal says."""
    try:
        told = json.loads(text)
    except ValueError:
        return text[:300]
    fault = told.get("error", told) if isinstance(told, dict) else told
    return fault_told(fault)
