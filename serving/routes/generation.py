"""KAITO's /chat, and OpenAI's chat and text completions."""

import asyncio
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serving.api.answer_models import ChatCompletion, KaitoAnswer, TextCompletion
from serving.api.answers import Answering, answer, check_rows, pieces_of, submit
from serving.api.body import read_body
from serving.api.completions import ChatShape, TextShape, chunks_of
from serving.api.described import described
from serving.api.generations import (
    check_schema,
    check_token_ids,
    encode_prompt,
    from_chat,
    from_kaito,
    from_openai,
    kaito_result,
)
from serving.api.kaito_protocol import ChatRequest
from serving.api.openai_protocol import ChatCompletionRequest, CompletionRequest
from serving.door.accounts import spend
from serving.engine import Engine
from serving.routes import answering
from serving.server import Server


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoints."""

    @app.post(
        "/chat", **described(takes=(ChatRequest,), gives=KaitoAnswer, said="As KAITO has it.")
    )
    async def chat(request: Request) -> JSONResponse:
        asked = await read_body(request, ChatRequest)
        engine = server.ready_engine()
        async with server.answering(request, asked.model) as who:
            request.state.model = who.version
            generation = await asyncio.to_thread(from_kaito, engine, asked, who.version)
            stream = submit(engine, generation)
            spend(request, len(generation.prompt_ids))
            answers = await pieces_of(request, stream, who)
        result = {"Result": kaito_result(asked, answers[0].text)}
        return JSONResponse(result, headers=who.headers)

    answering.add(
        app,
        server,
        "/v1/chat/completions",
        chat_completions,
        takes=ChatCompletionRequest,
        gives=ChatCompletion,
        said="The next turn of a conversation.",
    )
    answering.add(
        app,
        server,
        "/v1/completions",
        completions,
        takes=CompletionRequest,
        gives=TextCompletion,
        said="What follows a text.",
    )


async def chat_completions(
    request: Request, engine: Engine, asked: ChatCompletionRequest, who: Answering
) -> Response:
    """A conversation's next turn."""
    generation, tools = await from_chat(engine, asked, who.version)
    shape = ChatShape(who.told_of(asked, generation), tools=tools)
    telling = chunks_of(asked, [generation], shape)
    return await answer(request, engine, [generation], shape=shape, telling=telling)


async def completions(
    request: Request, engine: Engine, asked: CompletionRequest, who: Answering
) -> Response:
    """What follows each of the prompts."""
    check_rows(engine, len(asked.prompt) * asked.n)
    await check_schema(engine, asked)
    generations = [
        from_openai(
            engine,
            asked,
            who.version,
            prompt_ids=await _encode(engine, prompt),
            max_tokens=asked.max_tokens or 16,  # as OpenAI has it for this endpoint
            prompt_field="prompt",
            scores_prompt=asked.echo,
        )
        for prompt in asked.prompt
    ]
    echoed = [prompt for prompt in asked.prompt for _ in range(asked.n)] if asked.echo else ()
    echoes = [each if isinstance(each, str) else engine.prompts.decode(each) for each in echoed]
    shape = TextShape(who, echoes=echoes)
    telling = chunks_of(asked, generations, shape)
    return await answer(request, engine, generations, shape=shape, telling=telling)


async def _encode(engine: Engine, prompt: str | list[int]) -> Sequence[int]:
    """A prompt's token ids, which may be what it is. Raises: ApiError."""
    if isinstance(prompt, list):
        check_token_ids(engine, prompt, param="prompt")
        return prompt
    return await asyncio.to_thread(encode_prompt, engine, prompt)
