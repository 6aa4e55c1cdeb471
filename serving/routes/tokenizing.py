"""Texts and conversations as a model's token ids and back, by vLLM's two endpoints."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import Field

from serving.api.answer_models import TextAnswer, TokensAnswer
from serving.api.body import read_body, read_json
from serving.api.described import described
from serving.api.generations import check_length, check_token_ids, encode_conversation
from serving.api.openai_protocol import Conversation
from serving.api.protocol import Body, Flag, Whole, parse
from serving.engine import Engine
from serving.server import Server

_MOST_TOKENS = 100_000


class TokenizeText(Body):
    """A text that is to be encoded as it is."""

    prompt: str
    model: str | None = None
    add_special_tokens: Flag = True
    return_token_strs: Flag = False


class TokenizeChat(Conversation):
    """A conversation that is to be encoded as a chat completion would be asked with it."""

    model: str | None = None
    return_token_strs: Flag = False


class DetokenizeRequest(Body):
    """Tokens whose text is wanted."""

    tokens: Annotated[list[Whole], Field(max_length=_MOST_TOKENS)]
    model: str | None = None


BODIES = (TokenizeText, TokenizeChat, DetokenizeRequest)


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoints."""

    @app.post(
        "/tokenize",
        **described(
            takes=(TokenizeText, TokenizeChat),
            gives=TokensAnswer,
            said="The tokens of a text or a conversation.",
        ),
    )
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await read_json(request)
        is_chat = isinstance(body, dict) and "messages" in body
        asked = parse(TokenizeChat, body) if is_chat else parse(TokenizeText, body)
        engine = server.ready_engine()
        async with server.ready_versions().held(asked.model) as version:
            ids = await asyncio.to_thread(_encode, engine, asked, version)
        return {
            "count": len(ids),
            "max_model_len": engine.context_tokens,
            "tokens": ids,
            "token_strs": engine.prompts.tokens(ids) if asked.return_token_strs else None,
        }

    @app.post(
        "/detokenize",
        **described(takes=(DetokenizeRequest,), gives=TextAnswer, said="The text of tokens."),
    )
    async def detokenize(request: Request) -> dict[str, Any]:
        asked = await read_body(request, DetokenizeRequest)
        engine = server.ready_engine()
        server.ready_versions().version_of(asked.model)
        check_token_ids(engine, asked.tokens, param="tokens")
        return {"prompt": await asyncio.to_thread(engine.prompts.decode, asked.tokens)}


def _encode(engine: Engine, asked: TokenizeText | TokenizeChat, version: str) -> list[int]:
    if isinstance(asked, TokenizeText):
        check_length(engine, [asked.prompt], param="prompt")
        return engine.prompts.encode_text(asked.prompt, adds=asked.add_special_tokens)
    return encode_conversation(engine, asked, version)
