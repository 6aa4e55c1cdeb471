"""What all bodies that the server takes have in common, and how one that is none is refused.

Nothing asked for is ignored: an option that the server cannot honour is refused by its name, unless
it is given at the value that changes nothing. Types are JSON's own: "1" is no number.
"""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from serving.errors import ApiError, shown

Neutral = Mapping[str, tuple[Any, ...]]


def _whole(value: Any) -> Any:
    """16.0 as 16: some clients know one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Flag = Annotated[bool, Field(strict=True)]
# Behind a whole number's bounds: pydantic tells those of what a validator has seen before in no
# JSON schema.
WHOLE = BeforeValidator(_whole)
Whole = Annotated[int, Field(strict=True), WHOLE]
Real = Annotated[float, Field(strict=True)]
Temperature = Annotated[Real, Field(ge=0, le=2)]
Share = Annotated[Real, Field(gt=0, le=1)]
Penalty = Annotated[Real, Field(ge=-2, le=2)]
Repetition = Annotated[Real, Field(gt=0, le=10)]
Count = Annotated[int, Field(strict=True, ge=1), WHOLE]
Minimum = Annotated[int, Field(strict=True, ge=0), WHOLE]
Stop = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=4)]
_STOP = {"type": "string", "minLength": 1}
ONE_OR_MANY_STOPS = {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 4}]}
# Bounded, so that tokens are left to choose while none of these may come (min_new_tokens).
StopIds = Annotated[tuple[Whole, ...], Field(max_length=64)]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63), WHOLE]

_UNSUPPORTED = "unsupported"


class Body(BaseModel):
    """A JSON object without unknown keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def nullable(schema: dict[str, Any], *, but: Collection[str] = ()) -> None:
    """Say in a body's JSON schema that null stands for the default of every option."""
    required = {*schema.get("required", ()), *but}
    for name, own in schema["properties"].items():
        if name not in required and {"type": "null"} not in own.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [own, {"type": "null"}]}


def taken_too(schema: dict[str, Any], neutral: Neutral, hints: Collection[str] = ()) -> None:
    """Say in a body's JSON schema which keys are taken besides: at these values, or at any."""
    for key, allowed in neutral.items():
        schema["properties"].setdefault(key, {"enum": list(allowed)})
    for key in hints:
        schema["properties"].setdefault(key, {"description": "Changes no text."})


class SamplingOptions(Body):
    """How the next token is drawn, as endpoints word it; None = as each has it by default."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    repetition_penalty: Repetition | None = None
    seed: Seed | None = None


def without_neutral(
    fields: dict[str, Any], neutral: Neutral, *, fixes: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The fields without those at a value that changes nothing; others of these are refused.

    fixes: what to do instead, of keys that are not just left out.
    """
    for key, allowed in neutral.items():
        if key in fields and not any(_same(fields[key], each) for each in allowed):
            fix = fixes.get(key, "leave it out")
            raise PydanticCustomError(_UNSUPPORTED, "", {"key": key, "fix": fix})
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
            f"{path} was asked for, this server does not support it; {first['ctx']['fix']}",
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
