"""The bodies that the server takes: OpenAI's, and KAITO's for /chat.

Nothing asked for is ignored: an option that the server cannot honour is refused by its name, unless
it is given at the value that changes nothing.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.errors import ApiError

Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1)]
Stop = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
# Bounded, so that tokens are left to choose while none of these may come (min_new_tokens).
StopIds = Annotated[list[int], Field(max_length=64)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]

_UNSUPPORTED = "unsupported"

# Options of OpenAI's API that are taken at these values alone.
_OPENAI_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
# Labels that OpenAI keeps for its own bookkeeping; they never change an answer.
_OPENAI_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")

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
        return "".join(_text_of(part) for part in content)

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates expect it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


def _text_of(part: Any) -> str:
    if isinstance(part, dict) and isinstance(text := part.get("text"), str):
        return text
    raise ValueError("only text parts are supported")


class StreamOptions(Body):
    """What a stream brings beside its text; include_usage: a last chunk counts the tokens."""

    include_usage: bool = False


class GenerateRequest(Body):
    """What chat and text completions share."""

    model: str | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Seed | None = None
    stop: Stop = []
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        labels = {key: value for key, value in fields.items() if key not in _OPENAI_LABELS}
        given = {key: value for key, value in labels.items() if not _is_default(key, value)}
        return _without_neutral(given, _OPENAI_NEUTRAL)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop


class ChatCompletionRequest(GenerateRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None


class CompletionRequest(GenerateRequest):
    """POST /v1/completions."""

    prompt: Annotated[str, Field(min_length=1)]


class GenerateKwargs(Body):
    """Options of /chat, named as transformers' generate names them.

    max_length counts the prompt too. Sampling is on where do_sample or a sampling option says so.
    """

    max_new_tokens: Count | None = None
    max_length: Count | None = None
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    min_length: Annotated[int, Field(ge=0)] = 0
    do_sample: bool | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Seed | None = None
    stop_strings: Stop = []
    eos_token_id: StopIds = []
    pad_token_id: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        return _without_neutral(fields, _GENERATE_NEUTRAL) if isinstance(fields, dict) else fields

    @field_validator("eos_token_id", "stop_strings", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int) else value or []


class ChatRequest(Body):
    """POST /chat: a prompt or messages.

    A prompt is put as a user's turn to a model that has a chat template, and continued as it is by
    one that has none. Options of generate may also stand beside the prompt, as in later KAITO.
    """

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    model: str | None = None
    return_full_text: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    prefix: str | None = None
    handle_long_generation: Literal["hole"] | None = None
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, fields: Any) -> Any:
        options = {*GenerateKwargs.model_fields, *_GENERATE_NEUTRAL} & fields.keys()
        if not options:
            return fields
        nested = {**(fields.get("generate_kwargs") or {}), **{key: fields[key] for key in options}}
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
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from error


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
    path = ".".join(where)
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
