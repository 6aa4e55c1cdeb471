"""The bodies that the server takes: OpenAI's, and KAITO's for /chat.

Nothing asked for is ignored: an option that the server cannot honour is refused by its name, unless
it is given at the value that changes nothing. Hints that change no text anywhere are let pass.
Types are JSON's own: "1" is no number.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from serving.errors import ApiError, shown


def _whole(value: Any) -> Any:
    """16.0 as 16: some clients know one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Real = Annotated[float, Field(strict=True)]
Temperature = Annotated[Real, Field(ge=0, le=2)]
Share = Annotated[Real, Field(gt=0, le=1)]
Penalty = Annotated[Real, Field(ge=-2, le=2)]
Repetition = Annotated[Real, Field(gt=0, le=10)]
Count = Annotated[Whole, Field(ge=1)]
Minimum = Annotated[Whole, Field(ge=0)]
Stop = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
# Bounded, so that tokens are left to choose while none of these may come (min_new_tokens).
StopIds = Annotated[list[Whole], Field(max_length=64)]
Seed = Annotated[Whole, Field(ge=-(2**63), lt=2**63)]

_UNSUPPORTED = "unsupported"

# Options of OpenAI's API, and of servers that speak it, that are taken at these values alone.
_OPENAI_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (None, True),
    "allowed_token_ids": (None,),
    "audio": (None,),
    "bad_words": (None, []),
    "best_of": (None, 1),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "detokenize": (None, True),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "include_stop_str_in_output": (None, False),
    "length_penalty": (None, 1),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "prompt_logprobs": (None,),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
}
# For OpenAI's bookkeeping and prices; they change no text anywhere.
_OPENAI_HINTS = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)

# What answers of this server and of others carry beside their text: clients send them back as they
# came (`messages.append(response.choices[0].message)`).
_MESSAGE_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "reasoning": (None, ""),
    "reasoning_content": (None, ""),
    "refusal": (None,),
    "tool_calls": (None, []),
}

# Options of transformers' generate that KAITO's examples send, at the values that change nothing.
_GENERATE_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (None, []),
    "diversity_penalty": (None, 0),
    "early_stopping": (None, False),
    "encoder_no_repeat_ngram_size": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "length_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "num_beam_groups": (None, 1),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "output_scores": (None, False),
    "remove_invalid_values": (None, False),
    "return_dict_in_generate": (None, False),
    "typical_p": (None, 1),
    "use_cache": (None, True),
}


class Body(BaseModel):
    """A JSON object without unknown keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @model_validator(mode="before")
    @classmethod
    def _take_an_answer_back(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        given = _without_neutral(fields, _MESSAGE_NEUTRAL)
        if given.get("role") == "assistant" and given.get("content") is None:
            given["content"] = ""
        return given

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        """Text parts as one text; other parts are left for pydantic to refuse."""
        if not isinstance(content, list):
            return content
        return "".join(map(_text_of, content))

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates expect it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


def _text_of(part: Any) -> str:
    """A part's text; `cache_control` is a hint to other servers."""
    if isinstance(part, dict) and part.keys() <= {"type", "text", "cache_control"}:
        text = part.get("text")
        if part.get("type", "text") == "text" and isinstance(text, str):
            return text
    raise ValueError("only text parts are supported")


class StreamOptions(Body):
    """What a stream brings beside its text; include_usage: a last chunk counts the tokens.

    include_obfuscation (padding against those who read sizes off the wire) changes no text.
    """

    include_usage: Flag = False
    include_obfuscation: Flag | None = None


class GenerateRequest(Body):
    """What chat and text completions share."""

    model: str | None = None
    max_tokens: Count | None = None
    min_tokens: Minimum = 0
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[Whole, Field(ge=-1)] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Seed | None = None
    stop: Stop = []
    stop_token_ids: StopIds = []
    ignore_eos: Flag = False
    n: Annotated[Whole, Field(ge=1, le=16)] = 1
    stream: Flag = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        asked = {key: value for key, value in fields.items() if key not in _OPENAI_HINTS}
        given = {key: value for key, value in asked.items() if not _is_default(key, value)}
        return _without_neutral(given, _OPENAI_NEUTRAL)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop


class ChatCompletionRequest(GenerateRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


class CompletionRequest(GenerateRequest):
    """POST /v1/completions."""

    prompt: list[str | list[int]]

    @field_validator("prompt", mode="before")
    @classmethod
    def _several(cls, prompt: Any) -> Any:
        prompts = [prompt] if _is_prompt(prompt) else prompt
        if isinstance(prompts, list) and prompts and all(map(_is_prompt, prompts)):
            return prompts
        raise ValueError("a text, token ids, or a list of such was expected, none of them empty")


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(each) is int for each in value)
    return isinstance(value, str) and bool(value)


class GenerateKwargs(Body):
    """Options of /chat, named as transformers' generate names them.

    max_length counts the prompt too. Sampling is on where do_sample or a sampling option says so.
    """

    max_new_tokens: Count | None = None
    max_length: Count | None = None
    min_new_tokens: Minimum = 0
    min_length: Minimum = 0
    do_sample: Flag | None = None
    temperature: Temperature | None = None
    top_k: Minimum | None = None
    top_p: Share | None = None
    repetition_penalty: Repetition | None = None
    seed: Seed | None = None
    stop_strings: Stop = []
    eos_token_id: StopIds = []
    pad_token_id: Whole | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        return _without_neutral(fields, _GENERATE_NEUTRAL) if isinstance(fields, dict) else fields

    @field_validator("eos_token_id", "stop_strings", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) else value or []


class ChatRequest(Body):
    """POST /chat: a prompt or messages.

    A prompt is put as a user's turn to a model that has a chat template, and continued as it is by
    one that has none. Options of generate may also stand beside the prompt, as in later KAITO.
    """

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    model: str | None = None
    return_full_text: Flag | None = None
    clean_up_tokenization_spaces: Flag | None = None
    prefix: str | None = None
    handle_long_generation: Literal["hole"] | None = None
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, fields: Any) -> Any:
        options = {*GenerateKwargs.model_fields, *_GENERATE_NEUTRAL} & fields.keys()
        nested = fields.get("generate_kwargs") or {}
        if not options or not isinstance(nested, dict):
            return fields
        for key in options & nested.keys():
            if nested[key] != fields[key]:
                raise ValueError(f"{key} is given twice, with two values; give it once")
        nested = {**nested, **{key: fields[key] for key in options}}
        rest = {key: value for key, value in fields.items() if key not in options}
        return {**rest, "generate_kwargs": nested}

    @model_validator(mode="after")
    def _one_of_two(self) -> "ChatRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


def _is_default(key: str, value: Any) -> bool:
    """OpenAI's API takes null for every option that has a default."""
    return value is None and key not in ("messages", "prompt")


def _without_neutral(fields: dict[str, Any], neutral: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    for key, allowed in neutral.items():
        if key in fields and not any(_same(fields[key], each) for each in allowed):
            raise PydanticCustomError(_UNSUPPORTED, "", {"key": key})
    return {key: value for key, value in fields.items() if key not in neutral}


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON has it, where 0 is not false."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


RequestBody = TypeVar("RequestBody", bound=BaseModel)


def parse(model: type[RequestBody], body: Any) -> RequestBody:
    """The body as a request. Raises: ApiError 400, naming the field."""
    if not isinstance(body, dict):
        raise ApiError(400, f"a JSON object was expected, a {type(body).__name__} came")
    if (path := _half_character(body)) is not None:
        raise ApiError(
            400,
            f"{path} holds half of a surrogate pair, which is no character; send the text as UTF-8",
            param=path,
            code="invalid_value",
        )
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from error


_HALF = re.compile("[\ud800-\udfff]")


def _half_character(body: dict[str, Any]) -> str | None:
    """Where a text holds half of a surrogate pair: tokenizers and sockets fail at those.

    Without recursion: how deep the body is nested is the client's choice.
    """
    found: list[tuple[str, Any]] = [("", body)]
    while found:
        path, value = found.pop()
        if isinstance(value, str) and _HALF.search(value):
            return path
        if isinstance(value, list):
            found += [(f"{path}.{at}", each) for at, each in enumerate(value)]
        if isinstance(value, dict):
            found += [(f"{path}.{key}".strip("."), each) for key, each in value.items()]
            found += [(path or "a key", key) for key in value]
    return None


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == _UNSUPPORTED:
        path = ".".join([*where, first["ctx"]["key"]])
        return ApiError(
            400,
            f"{path} was asked for, this server does not support it; leave it out",
            param=path,
            code="unsupported_parameter",
        )
    path = shown(".".join(where))
    if first["type"] == "extra_forbidden":
        return ApiError(
            400,
            f"{path} is no option of this endpoint; check the spelling or leave it out",
            param=path,
            code="unknown_parameter",
        )
    said = first["msg"].removeprefix("Value error, ")
    message = f"{path}: {said}" if path else said
    return ApiError(400, message, param=path or None, code="invalid_value")
