"""The body of OpenAI's /v1/responses, which asks what a chat completion asks, in other words."""

from typing import Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from serving.api.messages import CalledFunction, ChoiceMode, Function, mode_or_name
from serving.api.openai_protocol import (
    OPENAI_HINTS,
    ChatCompletionRequest,
    ResponseFormat,
    TopLogprobs,
)
from serving.api.protocol import (
    Body,
    Count,
    Flag,
    Neutral,
    Share,
    Temperature,
    nullable,
    taken_too,
    without_neutral,
)

_NEUTRAL: Neutral = {
    "background": (None, False),
    "context_management": (None, []),
    "conversation": (None,),
    "max_tool_calls": (None,),
    "moderation": (None,),
    "previous_response_id": (None,),
    "prompt": (None,),
    "reasoning": (None, {}, {"effort": None}, {"effort": "none"}),
    "store": (None, False),
    "truncation": (None, "disabled"),
}
# What would have to be kept from one request to the next, and how to ask without.
_SEND_IT_ALL = "this server keeps no answers: send the items of earlier turns in input"
_FIXES = {
    "background": "ask for a stream, or wait for the answer",
    "conversation": _SEND_IT_ALL,
    "previous_response_id": _SEND_IT_ALL,
    "prompt": "this server keeps no prompts: write it into instructions",
    "store": f"set it to false; {_SEND_IT_ALL}",
}
_HINTS = {*OPENAI_HINTS, "prompt_cache_options"} - {"metadata", "store"}
_TEXTS = ("input_text", "output_text", "text")


def _as_text(content: Any) -> Any:
    """Text parts as one text; what stands beside it in an answer's parts says nothing here."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if _is_text(part) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("only text parts are supported")
    return "".join(cast("list[str]", texts))


def _is_text(part: Any) -> bool:
    known = {"type", "text", "annotations", "logprobs"}
    return isinstance(part, dict) and part.keys() <= known and part.get("type") in _TEXTS


_PART = {
    "type": "object",
    "properties": {
        "type": {"enum": list(_TEXTS)},
        "text": {"type": "string"},
        "annotations": {},
        "logprobs": {},
    },
    "required": ["type", "text"],
    "additionalProperties": False,
}
_TEXT_OR_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}
Text = Annotated[str, BeforeValidator(_as_text), WithJsonSchema(_TEXT_OR_PARTS)]


class _Item(Body):
    """What items have in common: marks that answers bear, and that clients send back with them."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    """A turn of text."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(_Item, CalledFunction):
    """A call of a tool, as the assistant made it."""

    type: Literal["function_call"]
    call_id: str


class CallOutputItem(_Item):
    """What a tool has answered to a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text


def _kind(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="items are of type message, function_call or function_call_output",
    ),
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class FunctionTool(Function):
    """A function that the model may call."""

    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _is_a_function(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("type") != "function":
            raise ValueError("tools are of type function; this server has none of its own")
        return fields

    def as_chat_has_it(self) -> dict[str, Any]:
        """The tool as chat completions take it."""
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedTool(Body):
    """The one function that the answer is to call."""

    type: Literal["function"]
    name: str

    def as_chat_has_it(self) -> dict[str, Any]:
        """The choice as chat completions take it."""
        return {"type": "function", "function": {"name": self.name}}


def _nested(form: Any) -> Any:
    """A schema's form as chat completions have it, one level deeper."""
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}


_SCHEMA_FORM = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "name": {"type": "string", "minLength": 1, "maxLength": 64},
        "schema": {"type": "object"},
        "description": {"type": ["string", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
    "required": ["type"],
    "additionalProperties": False,
}


class TextOptions(Body):
    """What kind of text the answer is to be."""

    format: (
        Annotated[ResponseFormat, BeforeValidator(_nested), WithJsonSchema(_SCHEMA_FORM)] | None
    ) = None
    verbosity: Literal["medium"] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The options as an answer repeats them."""
        form = self.format or ResponseFormat(type="text")
        schema = form.json_schema
        own = schema.model_dump(by_alias=True, exclude_none=True) if schema else {}
        return {"format": {"type": form.type} | own}


class ResponseStreamOptions(Body):
    """Padding against those who read sizes off the wire; changes no text."""

    include_obfuscation: Flag | None = None


def _documented(schema: dict[str, Any]) -> None:
    nullable(schema)
    taken_too(schema, _NEUTRAL, _HINTS)
    items = schema["properties"]["input"]
    schema["properties"]["input"] = {"anyOf": [{"type": "string"}, items]}


class ResponsesRequest(Body):
    """POST /v1/responses.

    include: of what may be asked for there is the tokens' probabilities; no reasoning is hidden.
    """

    model_config = ConfigDict(json_schema_extra=_documented)

    input: Annotated[list[Item], Field(min_length=1), BeforeValidator(_as_items)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: TopLogprobs = 0
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field(
        default_factory=list
    )
    text: TextOptions = Field(default_factory=TextOptions)
    tools: Annotated[list[FunctionTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Annotated[ChoiceMode | NamedTool, BeforeValidator(mode_or_name)] = "auto"
    parallel_tool_calls: Flag = True
    metadata: dict[str, str] = Field(default_factory=dict)
    stream: Flag = False
    stream_options: ResponseStreamOptions | None = None
    _chat: ChatCompletionRequest = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        asked = {key: value for key, value in fields.items() if key not in _HINTS}
        given = {key: each for key, each in asked.items() if each is not None or key == "input"}
        return without_neutral(given, _NEUTRAL, fixes=_FIXES)

    @model_validator(mode="after")
    def _is_a_chat(self) -> "ResponsesRequest":
        choice = self.tool_choice
        scored = bool(self.top_logprobs) or "message.output_text.logprobs" in self.include
        body: dict[str, Any] = {
            "messages": self._turns(),
            "tools": [tool.as_chat_has_it() for tool in self.tools],
            "tool_choice": choice.as_chat_has_it() if isinstance(choice, NamedTool) else choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "logprobs": scored,
            "top_logprobs": self.top_logprobs,
        }
        if self.text.format:
            body["response_format"] = self.text.format.model_dump(by_alias=True)
        try:
            self._chat = ChatCompletionRequest.model_validate(body)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(said) from error
        return self

    @property
    def chat(self) -> ChatCompletionRequest:
        """The chat completion that asks for the same."""
        return self._chat

    @property
    def told_choice(self) -> Any:
        """The choice of tools as an answer repeats it."""
        return self.model_dump()["tool_choice"]

    def _turns(self) -> list[dict[str, Any]]:
        """The input as messages; calls are part of the assistant's turn before them."""
        turns: list[dict[str, Any]] = []
        if self.instructions:
            turns.append({"role": "system", "content": self.instructions})
        for item in self.input:
            if isinstance(item, MessageItem):
                turns.append({"role": item.role, "content": item.content})
            elif isinstance(item, CallOutputItem):
                turns.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
            else:
                if not turns or turns[-1]["role"] != "assistant":
                    turns.append({"role": "assistant", "content": ""})
                function = {"name": item.name, "arguments": item.arguments}
                calls = turns[-1].setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "type": "function", "function": function})
        return turns
