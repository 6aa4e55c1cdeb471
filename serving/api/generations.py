"""Requests as OpenAI and KAITO word them, as the engine's `Generation`."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from serving.api.kaito_protocol import ChatRequest
from serving.api.openai_protocol import ChatCompletionRequest, Conversation, GenerateRequest
from serving.call_grammar import Offered, grammar_of
from serving.engine import Engine, Generation, Message, Sampling, Tools
from serving.errors import ApiError, shown

# On average; a prompt whose tokens would have to be longer is looked at before it is read whole.
_LONG_TOKEN_CHARACTERS = 4
_CHAT_MAX_NEW_TOKENS = 256  # of /chat, where a request says nothing

Value = TypeVar("Value")


def from_openai(
    engine: Engine,
    asked: GenerateRequest,
    model: str,
    *,
    prompt_ids: Sequence[int],
    max_tokens: int | None,
    prompt_field: str,
    scores_prompt: bool = False,
    shows_special: bool = False,
) -> Generation:
    """The request in the engine's words; without max_tokens as much as the context holds."""
    check_token_ids(engine, asked.stop_token_ids, param="stop_token_ids")
    check_token_ids(engine, list(asked.logit_bias), param="logit_bias")
    check_token_ids(engine, asked.allowed_token_ids or (), param="allowed_token_ids")
    defaults = engine.default_sampling
    room = _fitting(engine, len(prompt_ids), max_tokens, param=prompt_field)
    sampling = Sampling(
        temperature=_first(asked.temperature, defaults.temperature),
        top_p=_first(asked.top_p, defaults.top_p),
        top_k=max(0, _first(asked.top_k, defaults.top_k)),
        min_p=asked.min_p,
        repetition_penalty=_first(asked.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        seed=asked.seed,
        logit_bias=asked.logit_bias,
        allowed_token_ids=asked.allowed_token_ids,
        bad_words=tuple(_bad_words(engine, asked.bad_words)),
    )
    return Generation(
        model=model,
        prompt_ids=prompt_ids,
        max_tokens=room,
        min_tokens=_below(asked.min_tokens, room, param="min_tokens"),
        n=asked.n,
        stop=tuple(asked.stop),
        stop_token_ids=frozenset(asked.stop_token_ids),
        ignore_eos=asked.ignore_eos,
        shows_stop=asked.include_stop_str_in_output,
        shows_special=shows_special or not asked.skip_special_tokens,
        top_logprobs=asked.wanted_logprobs,
        schema=asked.wanted_schema,
        scores_prompt=scores_prompt and asked.wanted_logprobs is not None,
        sampling=sampling,
    )


async def from_chat(
    engine: Engine, asked: ChatCompletionRequest, model: str, *, prompt_field: str = "messages"
) -> tuple[Generation, Tools | None]:
    """A conversation's next turn in the engine's words; how calls in it are read, if it may call.

    Raises: ApiError.
    """
    prompt_ids = await asyncio.to_thread(_encode_turns, engine, asked, model, prompt_field)
    await check_schema(engine, asked)
    tools = _tools(engine, asked, model)
    generation = from_openai(
        engine,
        asked,
        model,
        prompt_ids=prompt_ids,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        prompt_field=prompt_field,
        shows_special=tools is not None and tools.are_special,
    )
    if tools is None:
        return generation, None
    if tools.most and tools.form.ends:  # nothing more is written behind the first call
        generation = replace(generation, stop=(*generation.stop, tools.form.ends))
    grammar = _grammar(asked, tools)
    if grammar is not None:
        await asyncio.to_thread(engine.check_grammar, grammar)
    return replace(generation, grammar=grammar), tools


def _encode_turns(engine: Engine, asked: Conversation, model: str, param: str) -> list[int]:
    check_length(engine, asked.texts, param=param)
    _expect_room(engine, asked.texts, param=param)
    return encode_conversation(engine, asked, model)


def _tools(engine: Engine, asked: ChatCompletionRequest, model: str) -> Tools | None:
    """How calls in the answer are read, if it may call. Raises: ApiError."""
    if not asked.may_call:
        return None
    tools = engine.prompts.tools_of(model)
    return tools if asked.parallel_tool_calls else replace(tools, most=1)


def _grammar(asked: ChatCompletionRequest, tools: Tools) -> str | None:
    """What the answer is held to, if to anything. Raises: ApiError: it must call, and cannot."""
    if not (asked.must_call or asked.is_strict):
        return None
    offered = [
        Offered(each.name, each.parameters, is_held=asked.must_call or bool(each.strict))
        for each in asked.callable
    ]
    grammar = None
    if tools.spelling:
        grammar = grammar_of(
            offered,
            form=tools.form,
            spelling=tools.spelling,
            marks=tools.marks,
            must=asked.must_call,
        )
    if asked.must_call and grammar is None:
        raise ApiError(
            400,
            "tool_choice asks for a call, and the model's chat template writes none as JSON, which"
            " is all that an answer can be held to; leave the choice to the model (auto)",
            param="tool_choice",
            code="unsupported_parameter",
        )
    return grammar


async def check_schema(engine: Engine, asked: GenerateRequest) -> None:
    """Nothing when the answer can be held to the schema, if one is wanted. Raises: ApiError."""
    if asked.wanted_schema is not None:
        await asyncio.to_thread(engine.check_schema, asked.wanted_schema)


def _bad_words(engine: Engine, words: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """The tokens of each word, at a text's beginning and within it."""
    for word in words:
        forms = (
            engine.prompts.encode_text(f"{before}{word.lstrip()}", adds=False)
            for before in ("", " ")
        )
        yield from {tuple(ids) for ids in forms if ids}


def _first(asked: Value | None, default: Value) -> Value:
    return default if asked is None else asked


def _below(min_tokens: int, max_tokens: int, *, param: str) -> int:
    """Return min_tokens. Raises: ApiError when the answer ends before it."""
    if min_tokens <= max_tokens:
        return min_tokens
    raise ApiError(
        400,
        f"{min_tokens} tokens at least were asked for, the answer has {max_tokens} at most; lower"
        f" {param} or raise the limit",
        param=param,
        code="invalid_value",
    )


def check_length(engine: Engine, texts: Sequence[str], *, param: str) -> None:
    """Nothing when texts may fit into the context; seen before a tokenizer reads them.

    Raises: ApiError.
    """
    characters = sum(map(len, texts))
    if characters > engine.context_characters:
        raise ApiError(
            400,
            f"a prompt of {characters} characters was asked for, the model's context of"
            f" {engine.context_tokens} tokens never holds more than {engine.context_characters};"
            " shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )


def _expect_room(engine: Engine, texts: Sequence[str], *, param: str) -> None:
    """Nothing, but where texts are surely longer than the context: no more of them is read.

    Raises: ApiError.
    """
    is_long = sum(map(len, texts)) > _LONG_TOKEN_CHARACTERS * engine.context_tokens
    if is_long and engine.prompts.exceeds(texts, engine.context_tokens):
        raise _too_long(engine, f"over {engine.context_tokens}", 1, param=param)


def encode_prompt(engine: Engine, text: str) -> Sequence[int]:
    """Token ids of a text to go on with. Raises: ApiError."""
    check_length(engine, [text], param="prompt")
    _expect_room(engine, [text], param="prompt")
    return engine.prompts.encode_text(text)


def encode_conversation(engine: Engine, asked: Conversation, model: str) -> list[int]:
    """Token ids of a conversation as it asks to be rendered. Raises: ApiError."""
    check_length(engine, asked.texts, param="messages")
    if asked.needs_tools:
        engine.prompts.tools_of(model)
    messages = [message.for_template() for message in asked.messages]
    return engine.prompts.encode_chat(messages, model=model, form=asked.form)


def _fitting(engine: Engine, prompt_tokens: int, max_tokens: int | None, *, param: str) -> int:
    """Return max_tokens, or what is left of the context. Raises: ApiError when they do not fit."""
    left = engine.context_tokens - prompt_tokens
    if left >= (max_tokens or 1):
        return max_tokens or left
    raise _too_long(engine, prompt_tokens, max_tokens or 1, param=param)


def _too_long(engine: Engine, prompt_tokens: int | str, max_tokens: int, *, param: str) -> ApiError:
    wanted = f"{prompt_tokens} tokens of prompt and {max_tokens} to generate"
    return ApiError(
        400,
        f"{wanted} were asked for, the model's context holds {engine.context_tokens} together;"
        " shorten the prompt or lower max_tokens",
        param=param,
        code="context_length_exceeded",
    )


def check_token_ids(engine: Engine, ids: Sequence[int], *, param: str) -> None:
    """Nothing when the model has all these tokens.

    Raises: ApiError: a GPU that looks a token up which is not there stops working for everybody.
    """
    unknown = next((each for each in ids if not 0 <= each < engine.vocabulary_tokens), None)
    if unknown is not None:
        raise ApiError(
            400,
            f"{param}: token {shown(unknown)} was asked for, the model has tokens 0 to"
            f" {engine.vocabulary_tokens - 1}; leave it out",
            param=param,
            code="invalid_value",
        )


def from_kaito(engine: Engine, asked: ChatRequest, model: str) -> Generation:
    """A /chat request in the engine's words: the likeliest tokens unless sampling is asked for."""
    options = asked.generate_kwargs
    check_token_ids(engine, options.eos_token_id, param="generate_kwargs.eos_token_id")
    prompt_ids = _kaito_prompt_ids(engine, asked, model)
    if options.max_new_tokens is None and options.max_length is not None:
        max_tokens = max(1, options.max_length - len(prompt_ids))
    else:
        max_tokens = options.max_new_tokens or _CHAT_MAX_NEW_TOKENS
    if asked.handle_long_generation == "hole":
        prompt_ids = prompt_ids[-max(1, engine.context_tokens - max_tokens) :]
    elif options.max_new_tokens is None:
        max_tokens = max(1, min(max_tokens, engine.context_tokens - len(prompt_ids)))
    samples = options.do_sample
    if samples is None:
        samples = (options.temperature, options.top_p, options.top_k) != (None, None, None)
    sampling = Sampling(
        temperature=_first(options.temperature, 1.0) if samples else 0.0,
        top_p=_first(options.top_p, 1.0),
        top_k=_first(options.top_k, 0),
        repetition_penalty=_first(options.repetition_penalty, 1.0),
        seed=options.seed,
    )
    prompt_field = "prompt" if asked.messages is None else "messages"
    room = _fitting(engine, len(prompt_ids), max_tokens, param=prompt_field)
    least = "min_new_tokens" if options.min_new_tokens else "min_length"
    min_tokens = max(options.min_new_tokens, options.min_length - len(prompt_ids))
    return Generation(
        model=model,
        prompt_ids=prompt_ids,
        max_tokens=room,
        min_tokens=_below(min_tokens, room, param=f"generate_kwargs.{least}"),
        stop=tuple(options.stop_strings),
        stop_token_ids=frozenset(options.eos_token_id),
        sampling=sampling,
    )


def _kaito_prompt_ids(engine: Engine, asked: ChatRequest, model: str) -> list[int]:
    prefix = asked.prefix or ""
    if asked.messages is None:
        text = f"{prefix}{asked.prompt}"
        check_length(engine, [text], param="prompt")
        if not engine.prompts.has_chat_template(model):
            return engine.prompts.encode_text(text)
        return engine.prompts.encode_chat([{"role": "user", "content": text}], model=model)
    check_length(engine, [each.content for each in asked.messages], param="messages")
    if any(message.is_of_tools for message in asked.messages):
        engine.prompts.tools_of(model)
    messages: list[Message] = [message.for_template() for message in asked.messages]
    return engine.prompts.encode_chat(messages, model=model)


def kaito_result(asked: ChatRequest, text: str) -> str:
    """The text as /chat was asked to give it back."""
    if asked.clean_up_tokenization_spaces:
        for mark in ".,?!":
            text = text.replace(f" {mark}", mark)
    if asked.return_full_text and asked.prompt is not None:
        return f"{asked.prefix or ''}{asked.prompt}{text}"
    return text
