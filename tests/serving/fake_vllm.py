"""What stands where `vllm serve` stands: its HTTP API over a tiny model, and faults at a word.

Run as `python -m tests.serving.fake_vllm MODEL --port ...`. Its flags, fields, events and
refusals are those of vLLM 0.33; a flag or a field that it does not know is refused, so that no
test passes by one that vLLM would pass over. What it answers is computed, by the other engine; with
FAKE_VLLM_PARROT=1 it is made up instead, without any library of models, for tests of what goes on
around it.

The file that FAKE_VLLM_FAULTS names is read at the start and before each answer: a JSON object with
`start` (a word of `_STARTS`), or `after`, a number of tokens, and what happens then, `fault` (a
word of `_go_wrong`). Beside it, `requests.jsonl` gets a line for each thing that was asked.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

_FIELDS = (
    "model prompt stream return_token_ids max_tokens min_tokens stop stop_token_ids ignore_eos"
    " include_stop_str_in_output skip_special_tokens temperature top_p top_k min_p"
    " repetition_penalty presence_penalty frequency_penalty seed logit_bias allowed_token_ids"
    " bad_words structured_outputs logprobs logprob_token_ids return_tokens_as_token_ids echo"
).split()
_STARTS = {
    "memory": "ValueError: To serve at least one request with the model's max seq len (8192), (9.0"
    " GiB KV cache is needed, which is larger than the available KV cache memory (1.2 GiB)",
    "driver": "RuntimeError: Failed to infer device type, please set the environment variable",
    "model": "ValueError: Model architectures ['ToyForCausalLM'] are not supported for now.",
}
_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model", type=Path)
    for name in ("host", "served-model-name", "uvicorn-log-level", "generation-config", "dtype"):
        parser.add_argument(f"--{name}")
    for name in ("max-model-len", "structured-outputs-config"):
        parser.add_argument(f"--{name}")
    for name in ("port", "max-num-seqs", "tensor-parallel-size"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("max-loras", "max-cpu-loras", "max-lora-rank"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("disable-uvicorn-access-log", "disable-fastapi-docs", "enable-lora"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    return parser.parse_args(given)


class Faults:
    """What is to go wrong, as a test has written it down last."""

    def __init__(self, file: str) -> None:
        self._file = Path(file) if file else None

    @property
    def asked(self) -> Mapping[str, Any]:
        """What is to go wrong now."""
        if self._file is None or not self._file.is_file():
            return {}
        told: Mapping[str, Any] = json.loads(self._file.read_text() or "{}")
        return told

    def note(self, **fields: object) -> None:
        """Write down what was asked."""
        if self._file:
            with self._file.with_name("requests.jsonl").open("a") as log:
                log.write(json.dumps(fields) + "\n")


class FakeVllm:
    """One server; it answers health only once the model is there."""

    def __init__(self, arguments: argparse.Namespace, faults: Faults) -> None:
        self.arguments = arguments
        self.faults = faults
        self._key = os.environ["VLLM_API_KEY"]
        self.engine: Any = None
        self._is_dead = False

    def load(self) -> None:
        """Have the model, by the other engine; in 32 bits, so that a batch rounds as one row."""
        if os.environ.get("FAKE_VLLM_PARROT"):
            self.engine = Parrot(self.arguments.served_model_name)
            return
        import torch

        from serving.metrics import Metrics
        from serving.transformers_engine.engine import load_engine
        from tasks.contract.programs.serving import ServerConfig

        length = self.arguments.max_model_len
        config = ServerConfig(
            weights_dir=self.arguments.model,
            served_model_name=self.arguments.served_model_name,
            max_concurrency=self.arguments.max_num_seqs,
            max_queue=1000,
            max_context_tokens=None if length == "auto" else int(length),
        )
        self.engine = load_engine(config, metrics=Metrics(), dtype=torch.float32)

    def app(self) -> web.Application:
        """Its endpoints."""
        app = web.Application(middlewares=[self._keyed], client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/load_lora_adapter", self._load_adapter)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_adapter)
        return app

    @web.middleware
    async def _keyed(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if request.path.startswith("/v1") and given != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=503 if self._is_dead else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        load = self.engine.load()
        label = f'{{engine="0",model_name="{self.arguments.served_model_name}"}}'
        page = ""
        for name, kind, value in (
            ("vllm:num_requests_running", "gauge", load.running),
            ("vllm:kv_cache_usage_perc", "gauge", load.cache_usage),
            ("vllm:prefix_cache_hits_total", "counter", 3),
        ):
            page += f"# HELP {name} As vLLM has it.\n# TYPE {name} {kind}\n{name}{label} {value}\n"
        return web.Response(text=page)

    async def _models(self, _request: web.Request) -> web.Response:
        served = [
            {"id": name, "object": "model", "max_model_len": self.engine.context_tokens}
            for name in self.engine.models
        ]
        return web.json_response({"object": "list", "data": served})

    async def _load_adapter(self, request: web.Request) -> web.Response:
        from tasks.contract.errors import KaitoflowError
        from tasks.contract.programs.serving import AdapterSource

        asked = await request.json()
        self.faults.note(load=asked["lora_name"], path=asked["lora_path"])
        config = json.loads((Path(asked["lora_path"]) / "adapter_config.json").read_text())
        if config["r"] > self.arguments.max_lora_rank:
            most = self.arguments.max_lora_rank
            return _refusal(500, f"LoRA rank {config['r']} is greater than max_lora_rank {most}.")
        source = AdapterSource(asked["lora_name"], Path(asked["lora_path"]))
        try:
            await asyncio.to_thread(self.engine.load_adapter, source)
        except KaitoflowError as error:
            return _refusal(500, str(error))
        return web.Response(text=f"Success: LoRA adapter '{source.name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.faults.note(unload=name)
        if name not in self.engine.models:
            return _refusal(404, f"The lora adapter '{name}' cannot be found.")
        self.engine.unload_adapter(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        fault = self.faults.asked
        self.faults.note(asked={key: asked[key] for key in asked if key != "prompt"})
        if unknown := set(asked) - {*_FIELDS}:
            return _refusal(400, f"fields that vLLM does not have: {', '.join(unknown)}")
        if asked["model"] not in self.engine.models:
            return _refusal(404, f"The model `{asked['model']}` does not exist.")
        if fault.get("fault") == "refuse":
            return _refusal(400, "refused, as a test asked for")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        told = 0
        try:
            await answer.prepare(request)
            async for event, tokens in self._events(asked):
                told += tokens
                await answer.write(f"data: {json.dumps(event)}\n\n".encode())
                if "after" in fault and told >= fault["after"]:
                    await self._go_wrong(fault["fault"], request, answer)
            await answer.write(b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.faults.note(gone=True)
            raise
        return answer

    async def _go_wrong(self, fault: str, request: web.Request, answer: web.StreamResponse) -> None:
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            await asyncio.sleep(3600)
        elif fault == "slow":  # each word of all that follow
            await asyncio.sleep(0.1)
        elif fault == "garbage":
            await answer.write(b"data: {not json}\n\n")
        elif fault == "cut":
            assert request.transport
            request.transport.abort()
        elif fault == "error":  # of this request alone
            error = {"message": "Internal server error", "type": "InternalServerError", "code": 500}
            await answer.write(f"data: {json.dumps({'error': error})}\n\n".encode())
        elif fault == "dead":  # what generates is gone, and the API still there
            self._is_dead = True
            error = {"message": _DEAD, "type": "InternalServerError", "code": 500}
            await answer.write(f"data: {json.dumps({'error': error})}\n\n".encode())

    async def _events(self, asked: Mapping[str, Any]) -> AsyncIterator[tuple[dict[str, Any], int]]:
        """The stream's events, each with its number of tokens; an echo comes with the first one."""
        before: list[Any] = []
        is_first = True
        stream = self.engine.submit(self._generation(asked))
        try:
            async for piece in stream:
                if piece.scored and not piece.tokens:
                    before = list(piece.scored)
                    continue
                scored = [*(before if asked.get("echo") else ()), *piece.scored]
                choice: dict[str, Any] = {
                    "index": 0,
                    "text": piece.text,
                    "finish_reason": piece.finish_reason,
                    "stop_reason": None,
                    "token_ids": [one.token_id for one in piece.scored],
                }
                if is_first:
                    choice["prompt_token_ids"] = asked["prompt"]
                if "logprobs" in asked:
                    choice["logprobs"] = _logprobs(scored, asked)
                event = {"id": "cmpl-1", "object": "text_completion", "created": 1}
                yield event | {"model": asked["model"], "choices": [choice]}, piece.tokens
                before, is_first = [], False
        finally:
            stream.cancel()

    def _generation(self, asked: Mapping[str, Any]) -> Any:
        from serving.engine import Generation, Sampling

        # The tokens are told with their probabilities, and those that end a text only when shown.
        wanted = max(asked.get("logprobs") or 0, 1)
        if asked.get("logprob_token_ids"):
            wanted = self.engine.vocabulary_tokens
        rules = {
            name: asked[name]
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
            if name in asked
        } | {name: asked.get(name, 0.0) for name in ("presence_penalty", "frequency_penalty")}
        allowed = asked.get("allowed_token_ids")
        return Generation(
            model=asked["model"],
            prompt_ids=asked["prompt"],
            max_tokens=asked["max_tokens"],
            min_tokens=asked.get("min_tokens", 0),
            stop=tuple(asked.get("stop", ())),
            stop_token_ids=frozenset(asked.get("stop_token_ids", ())),
            ignore_eos=asked.get("ignore_eos", False),
            shows_stop=True,
            shows_special=not asked.get("skip_special_tokens", True),
            schema=(asked.get("structured_outputs") or {}).get("json"),
            grammar=(asked.get("structured_outputs") or {}).get("grammar"),
            top_logprobs=wanted,
            scores_prompt=asked.get("echo", False),
            sampling=Sampling(
                seed=asked.get("seed"),
                logit_bias={int(key): value for key, value in asked.get("logit_bias", {}).items()},
                allowed_token_ids=tuple(allowed) if allowed is not None else None,
                bad_words=tuple(self._bad_words(asked.get("bad_words", ()))),
                **rules,
            ),
        )

    def _bad_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """As vLLM does it (`SamplingParams.update_from_tokenizer`)."""
        found: list[tuple[int, ...]] = []
        for word in words:
            plain, spaced = (
                tuple(self.engine.prompts.encode_text(before + word.lstrip(), adds=False))
                for before in ("", " ")
            )
            found.append(plain)
            if spaced[0] != plain[0] and len(spaced) == len(plain):
                found.append(spaced)
        return found


class Parrot:
    """In the place of an engine: what it says follows from the model's name and the prompt."""

    context_tokens = 4096
    vocabulary_tokens = 300

    def __init__(self, base: str) -> None:
        """Begin with a base alone."""
        self.models = {base: ""}
        self._running = 0

    def load(self) -> Any:
        """How busy it is."""
        from serving.engine import Load

        return Load(self._running, 0, 0.25)

    def load_adapter(self, source: Any) -> None:
        """Know one name more."""
        self.models[source.name] = str(source.path)

    def unload_adapter(self, name: str) -> None:
        """Know it no more."""
        del self.models[name]

    def encode_text(self, text: str, *, adds: bool = True) -> list[int]:
        """Numbers of a text; what they are does not matter."""
        return list(text.encode())

    def submit(self, generation: Any) -> Any:
        """The pieces of a continuation, each a token."""
        return _Saying(self, generation)


class _Saying:
    """What a parrot says, until it has said enough or nobody listens."""

    def __init__(self, parrot: Parrot, generation: Any) -> None:
        self._parrot, self._generation = parrot, generation

    def cancel(self) -> None:
        """Nothing: who reads no more asks for no more."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        from serving.engine import FinishReason, Piece, Scored

        asked = self._generation
        start = sum(asked.prompt_ids) + sum(asked.model.encode())
        for place in range(asked.max_tokens):
            await asyncio.sleep(0.005)
            letter = 100 + (start + 7 * place) % 100
            scored = Scored(letter, "", b"", -0.5, (Scored(letter, "", b"", -0.5),))
            reason: FinishReason | None = "length" if place == asked.max_tokens - 1 else None
            yield Piece(index=0, text="", tokens=1, finish_reason=reason, scored=(scored,))


def _logprobs(scored: Sequence[Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    def token(one: Any) -> str:
        return f"token_id:{one.token_id}"

    def likeliest(one: Any) -> dict[str, float | None] | None:
        if one.logprob is None:
            return None
        ids = asked.get("logprob_token_ids")
        top = one.top[: asked["logprobs"]] if not ids else one.top
        wanted = [each for each in top if not ids or each.token_id in ids]
        return {token(each): each.logprob for each in (one, *wanted)}

    return {
        "tokens": [token(one) for one in scored],
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": [likeliest(one) for one in scored],
        "text_offset": [0 for _ in scored],
    }


def _refusal(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO)
    arguments = _arguments()
    faults = Faults(os.environ.get("FAKE_VLLM_FAULTS", ""))
    faults.note(start=sys.argv[1:])
    if said := _STARTS.get(faults.asked.get("start", "")):
        sys.exit(said)
    server = FakeVllm(arguments, faults)
    server.load()
    web.run_app(server.app(), host=arguments.host, port=arguments.port, print=None)


if __name__ == "__main__":
    main()
