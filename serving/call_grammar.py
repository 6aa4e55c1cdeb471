"""A grammar of answers that call tools by their schemas, in llguidance's words (Lark). Pure."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.tool_calls import CallSpelling, ToolForm

_NO_PARAMETERS = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True)
class Offered:
    """A function that may be called; parameters: a JSON schema; None = it takes none.

    is_held: whether its arguments are of that schema, and not just any object.
    """

    name: str
    parameters: Mapping[str, Any] | None
    is_held: bool


def grammar_of(
    functions: Sequence[Offered],
    *,
    form: ToolForm,
    spelling: CallSpelling,
    marks: Mapping[str, int],
    must: bool,
) -> str | None:
    """What an answer may be: one call, or where it need not be, any text with such calls in it.

    marks: the special tokens by their texts, which no text spells.
    Returns: None where a text may begin as a call does, so that the two cannot be told apart.
    """
    calls = " | ".join(f"call_{at}" for at in range(len(functions)))
    begins = _spelled(form.begins, marks)
    if must:
        rules = [f"start: {begins if spelling.before else ''} ({calls})"]
    elif form.only_first:
        return None
    else:
        several = f"(begins ({calls}))* TEXT" if form.ends else f"TEXT | begins ({calls})"
        lazy = "" if form.begins in marks else "[lazy]"  # text that ends where a call begins
        rules = [f"start: {several}", f"begins{lazy}: TEXT {begins}", r"TEXT: /(.|\n)*/"]
    for at, function in enumerate(functions):
        before = spelling.opening(function.name).removeprefix(form.begins)
        schema = json.dumps(_call_schema(function, spelling.key))
        parts = (_spelled(before, marks), f"%json {schema}", _spelled(spelling.after, marks))
        rules.append(f"call_{at}: {' '.join(filter(None, parts))}")
    return "\n".join(["%llguidance {}", *rules, ""])


def _spelled(text: str, marks: Mapping[str, int]) -> str:
    """A text in a grammar, special tokens by their numbers."""
    return " ".join(_parts(text, marks))


def _parts(text: str, marks: Mapping[str, int]) -> Iterator[str]:
    longest_first = sorted(marks, key=len, reverse=True)
    for part in re.split(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})", text):
        if part:
            yield f"<[{marks[part]}]>" if part in marks else json.dumps(part)


def _call_schema(function: Offered, key: str | None) -> Mapping[str, Any]:
    """The schema of what a call has as JSON."""
    parameters = _NO_PARAMETERS if function.parameters is None else function.parameters
    if not function.is_held:
        parameters = {"type": "object"}
    if key is None:
        return parameters
    return {
        "type": "object",
        "properties": {
            "name": {"const": function.name},
            key: _moved(parameters, f"#/properties/{key}"),
        },
        "required": ["name", key],
        "additionalProperties": False,
    }


def _moved(schema: Mapping[str, Any], place: str) -> Any:
    """A schema that has become part of another: what it refers to in itself is at that place."""

    def refer(found: dict[str, Any]) -> dict[str, Any]:
        target = found.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            return found | {"$ref": place + target.removeprefix("#")}
        return found

    return json.loads(json.dumps(schema), object_hook=refer)
