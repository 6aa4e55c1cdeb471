"""The bodies of OpenAI's API, and the extras of servers that speak it.

Hints that change no text anywhere are let pass.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from serving.api.messages import ChatMessage, Function, NamedFunction, Tool, ToolChoice
from serving.api.protocol import (
    ONE_OR_MANY_STOPS,
    WHOLE,
    Body,
    Count,
    Flag,
    Minimum,
    Neutral,
    Penalty,
    Real,
    SamplingOptions,
    Stop,
    StopIds,
    Whole,
    nullable,
    taken_too,
    without_neutral,
)
from serving.engine import ChatForm

# Options of OpenAI's API, and of servers that speak it, that are taken at these values alone.
_OPENAI_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "chat_template": (None,),
    "detokenize": (None, True),
    "function_call": (None, "none"),
    "functions": (None, []),
    "length_penalty": (None, 1),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "prompt_logprobs": (None,),
    "reasoning_effort": (None, "none"),
    "spaces_between_special_tokens": (None, True),
    "suffix": (None, ""),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
}
_CHAT_NEUTRAL: Neutral = _OPENAI_NEUTRAL | {
    "echo": (None, False),
}
_TEXT_NEUTRAL: Neutral = _OPENAI_NEUTRAL | {
    "parallel_tool_calls": (None, True),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "add_generation_prompt": (None, True),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "top_logprobs": (None, 0),
}
# For OpenAI's bookkeeping and prices; they change no text anywhere.
OPENAI_HINTS = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)


class StreamOptions(Body):
    """What a stream brings beside its text; include_usage: a last chunk counts the tokens.

    continuous_usage_stats: each chunk says what it has cost so far, where it is counted at all.
    include_obfuscation (padding against those who read sizes off the wire) changes no text.
    """

    include_usage: Flag = False
    continuous_usage_stats: Flag | None = None
    include_obfuscation: Flag | None = None


_MOST_SCHEMA_CHARACTERS = 65_536
# What would have to come, or not to come, against what a grammar says.
_AGAINST_A_GRAMMAR = ("allowed_token_ids", "bad_words", "ignore_eos", "min_tokens")
TopLogprobs = Annotated[int, Field(strict=True, ge=0, le=20), WHOLE]
Bias = Annotated[Real, Field(ge=-100, le=100)]
Words = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=256)
]


class JsonSchema(Body):
    """A schema that the answer is to be of; it is held to it, strict or not."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    strict: Flag | None = None
    wanted: dict[str, Any] = Field(alias="schema", default_factory=lambda: {"type": "object"})


class ResponseFormat(Body):
    """What kind of text the answer is to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with the type json_schema, and only with it")
        return self

    @property
    def schema_text(self) -> str | None:
        """The JSON schema; None = any text."""
        if self.type == "text":
            return None
        wanted = self.json_schema.wanted if self.json_schema else {"type": "object"}
        return json.dumps(wanted)


def _documented(schema: dict[str, Any], model: type[Any]) -> None:
    nullable(schema)
    taken_too(schema, model.neutral, OPENAI_HINTS)


class GenerateRequest(SamplingOptions):
    """What chat and text completions share."""

    neutral: ClassVar[Neutral]
    model_config = ConfigDict(json_schema_extra=_documented)

    model: str | None = None
    max_tokens: Count | None = None
    min_tokens: Minimum = 0
    top_k: Annotated[int, Field(strict=True, ge=-1), WHOLE] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    stop: Annotated[Stop, WithJsonSchema(ONE_OR_MANY_STOPS)] = ()
    stop_token_ids: StopIds = ()
    ignore_eos: Flag = False
    include_stop_str_in_output: Flag = False
    skip_special_tokens: Flag = True
    logit_bias: Annotated[dict[int, Bias], Field(max_length=1024)] = Field(default_factory=dict)
    allowed_token_ids: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    bad_words: Words = ()
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=16), WHOLE] = 1
    stream: Flag = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        asked = {key: value for key, value in fields.items() if key not in OPENAI_HINTS}
        given = {key: value for key, value in asked.items() if not _is_default(key, value)}
        return without_neutral(given, cls.neutral)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @property
    def wanted_schema(self) -> str | None:
        """The JSON schema that the answer is held to, if any."""
        return self.response_format.schema_text if self.response_format else None

    @model_validator(mode="after")
    def _nothing_against_a_schema(self) -> Self:
        schema = self.wanted_schema
        if schema is None:
            return self
        if len(schema) > _MOST_SCHEMA_CHARACTERS:
            raise ValueError(f"the schema has over {_MOST_SCHEMA_CHARACTERS} characters")
        self._goes_with("an answer of a schema", but=(*_AGAINST_A_GRAMMAR, "tools"))
        return self

    def _goes_with(self, what: str, *, but: Sequence[str]) -> None:
        if given := [name for name in but if getattr(self, name, None)]:
            raise ValueError(f"{what} goes with no {given[0]}; leave one of them out")

    @property
    @abstractmethod
    def wanted_logprobs(self) -> int | None:
        """How many likely tokens are told beside each that is chosen; None = not even it."""


class Conversation(Body):
    """Messages, and how they are rendered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    add_generation_prompt: Flag = True
    continue_final_message: Flag = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"

    @property
    def texts(self) -> list[str]:
        """What is said at least, for who bounds it before it is rendered."""
        calls = (call for message in self.messages for call in message.tool_calls)
        tools = (tool.model_dump_json() for tool in self.tools)
        texts = [*(message.content for message in self.messages), *tools]
        return [*texts, *(call.function.arguments for call in calls)]

    @property
    def may_call(self) -> bool:
        """Whether the answer may call a tool."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call of a tool."""
        return self.tool_choice not in ("none", "auto")

    @property
    def callable(self) -> list[Function]:
        """The functions that the answer may call."""
        functions = [tool.function for tool in self.tools if self.may_call]
        if isinstance(self.tool_choice, NamedFunction):
            named = self.tool_choice.function.name
            return [function for function in functions if function.name == named]
        return functions

    @property
    def is_strict(self) -> bool:
        """Whether the arguments of a call are to be of a schema, whatever the model chooses."""
        return any(function.strict for function in self.callable)

    @model_validator(mode="after")
    def _knows_what_it_must_call(self) -> Self:
        if self.must_call and not self.callable:
            raise ValueError("tool_choice asks for a call of a function that is not among tools")
        if self.must_call and self.continue_final_message:
            raise ValueError("tool_choice asks for a call; leave continue_final_message out")
        return self

    @property
    def needs_tools(self) -> bool:
        """Whether the model has to know tools to be asked this."""
        return self.may_call or any(message.is_of_tools for message in self.messages)

    @property
    def form(self) -> ChatForm:
        """How a template is to render them."""
        return ChatForm(
            asks=self.add_generation_prompt and not self.continue_final_message,
            continues=self.continue_final_message,
            variables=self.chat_template_kwargs,
            tools=[tool.model_dump(exclude_none=True) for tool in self.tools if self.may_call],
        )

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message of the assistant's")
        if "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt:
            raise ValueError("continue_final_message begins no answer; leave add_generation_prompt")
        return self


class ChatCompletionRequest(Conversation, GenerateRequest):
    """POST /v1/chat/completions."""

    neutral = _CHAT_NEUTRAL

    max_completion_tokens: Count | None = None
    logprobs: Flag = False
    top_logprobs: TopLogprobs = 0
    parallel_tool_calls: Flag = True

    @model_validator(mode="after")
    def _nothing_against_calls(self) -> Self:
        if self.must_call or self.is_strict:
            self._goes_with("a call that is held to a schema", but=_AGAINST_A_GRAMMAR)
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @model_validator(mode="after")
    def _top_with_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs; set it to true")
        return self


_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
_PROMPT = {
    "anyOf": [_TEXT, _IDS, {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1}]
}


class CompletionRequest(GenerateRequest):
    """POST /v1/completions."""

    neutral = _TEXT_NEUTRAL

    prompt: Annotated[list[str | list[int]], WithJsonSchema(_PROMPT)]
    echo: Flag = False
    logprobs: TopLogprobs | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_wanted(cls, logprobs: Any) -> Any:
        return None if logprobs is False else logprobs

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


def _is_default(key: str, value: Any) -> bool:
    """OpenAI's API takes null for every option that has a default."""
    return value is None and key not in ("messages", "prompt")
