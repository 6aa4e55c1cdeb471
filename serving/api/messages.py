"""The turns of a conversation and the tools in it, which OpenAI's bodies and KAITO's share."""

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from serving.api.protocol import Body, Flag, Neutral, nullable, taken_too, without_neutral

# What answers of this server and of others carry beside their text: clients send them back as they
# came (`messages.append(response.choices[0].message)`).
_MESSAGE_NEUTRAL: Neutral = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "reasoning": (None, ""),
    "reasoning_content": (None, ""),
    "refusal": (None,),
}
# What turns of tools have beside their text, and others have not.
_OTHERS_NEUTRAL: Neutral = {"name": (None,), "tool_call_id": (None,)}
_UNCALLING_NEUTRAL: Neutral = {"tool_calls": (None, [])}


class CalledFunction(Body):
    """What a call of a tool names."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        try:
            is_object = isinstance(json.loads(arguments or "{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ValueError("a JSON object as text was expected")
        return arguments


class CalledTool(Body):
    """A call of a tool, as the assistant made it."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """The call with its arguments as an object."""
        arguments = json.loads(self.function.arguments or "{}")
        return {
            "id": self.id,
            "type": self.type,
            "function": {"name": self.function.name, "arguments": arguments},
        }


class Function(Body):
    """A function that the model may call.

    parameters: a JSON schema. strict: whether arguments are held to it where the model may choose.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """Which function."""

    name: str


class NamedFunction(Body):
    """The one function that the answer is to call."""

    type: Literal["function"]
    function: FunctionName


ChoiceMode = Literal["none", "auto", "required"]


def mode_or_name(choice: Any) -> Any:
    """A choice of tools, if it is one of those that this server keeps."""
    if isinstance(choice, str) and choice in get_args(ChoiceMode):
        return choice
    if isinstance(choice, NamedFunction):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return choice
    raise ValueError("none, auto, required or one function by its name was expected")


ToolChoice = Annotated[ChoiceMode | NamedFunction, BeforeValidator(mode_or_name)]


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}, "cache_control": {}},
    "required": ["text"],
    "additionalProperties": False,
}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]}


def _documented(schema: dict[str, Any]) -> None:
    nullable(schema)
    taken_too(schema, {**_MESSAGE_NEUTRAL, **_OTHERS_NEUTRAL, **_UNCALLING_NEUTRAL})
    schema["required"] = ["role"]


class ChatMessage(Body):
    """One turn of a conversation; content may be left out of a turn that calls tools."""

    model_config = ConfigDict(json_schema_extra=_documented)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, WithJsonSchema(_CONTENT)]
    tool_calls: list[CalledTool] = Field(default_factory=list)
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_an_answer_back(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        others = {} if fields.get("role") == "tool" else _OTHERS_NEUTRAL
        uncalling = {} if fields.get("role") == "assistant" else _UNCALLING_NEUTRAL
        given = without_neutral(fields, {**_MESSAGE_NEUTRAL, **others, **uncalling})
        if given.get("tool_calls", ()) is None:
            del given["tool_calls"]
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

    @property
    def is_of_tools(self) -> bool:
        """Whether a tool is called in it, or answers."""
        return self.role == "tool" or bool(self.tool_calls)

    def for_template(self) -> dict[str, Any]:
        """The turn as chat templates expect it."""
        turn: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content,
        }
        if self.tool_calls:
            turn["tool_calls"] = [call.for_template() for call in self.tool_calls]
        beside = {"tool_call_id": self.tool_call_id, "name": self.name}
        return turn | {key: value for key, value in beside.items() if value is not None}


def _text_of(part: Any) -> str:
    """A part's text; `cache_control` is a hint to other servers."""
    if isinstance(part, dict) and part.keys() <= {"type", "text", "cache_control"}:
        text = part.get("text")
        if part.get("type", "text") == "text" and isinstance(text, str):
            return text
    raise ValueError("only text parts are supported")
