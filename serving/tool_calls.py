"""Calls of tools in what a model says, told from its text while that comes in.

A chat template shows how its model writes a call: the form that reads the template's own rendering
of one is the model's.
"""

import itertools
import json
import re
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.template import ChatTemplate

_SHOWN_NAME = "lookup"  # of the tool that a template is shown
_ID_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # templates of Mistral's take no other


@dataclass(frozen=True)
class ToolCall:
    """One call; arguments: a JSON object as text, as OpenAI has it."""

    name: str
    arguments: str

    def written(self, index: int | None = None) -> dict[str, Any]:
        """The call as clients read it; index: its place in a stream's calls."""
        place = {} if index is None else {"index": index}
        function = {"name": self.name, "arguments": self.arguments}
        own_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        return {**place, "id": own_id, "type": "function", "function": function}


@dataclass(frozen=True)
class ToolForm:
    """One way to write calls.

    begins, ends: the texts around calls; ends: None = they go on to the end of the answer.
    only_first: whether calls stand at the beginning of an answer or nowhere.
    read: the calls between. Raises: ValueError.
    """

    begins: str
    ends: str | None
    only_first: bool
    read: Callable[[str], list[ToolCall]]


def _tagged(text: str) -> list[ToolCall]:
    return [_call(json.loads(text))]


def _bare(text: str) -> list[ToolCall]:
    """Objects behind each other, as Llama writes them."""
    decoder, calls, at = json.JSONDecoder(), [], 0
    text = text.removeprefix("<|python_tag|>").strip()
    while at < len(text):
        found, end = decoder.raw_decode(text, at)
        if not {"arguments", "parameters"} & {*found}:
            raise ValueError("an object that is no call")
        calls.append(_call(found))
        at = end + len(text[end:]) - len(text[end:].lstrip("; \n"))
    return calls


def _listed(text: str) -> list[ToolCall]:
    """Mistral's: a list of objects, or a name and its arguments behind each mark."""
    calls = []
    for part in filter(None, map(str.strip, text.split("[TOOL_CALLS]"))):
        if part.startswith("["):
            calls += [_call(each) for each in json.loads(part)]
        else:
            name, _, arguments = part.partition("[ARGS]")
            name = name.partition("[CALL_ID]")[0]
            calls.append(_call({"name": name, "arguments": json.loads(arguments)}))
    return calls


def _call(found: Any) -> ToolCall:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise ValueError("no call")  # noqa: TRY004 # as of other texts that are none
    arguments = found.get("arguments", found.get("parameters", {}))
    if not isinstance(arguments, dict):
        raise ValueError("no arguments")  # noqa: TRY004 # likewise
    return ToolCall(found["name"], json.dumps(arguments, ensure_ascii=False))


FORMS = (
    ToolForm("<tool_call>", "</tool_call>", only_first=False, read=_tagged),
    ToolForm("[TOOL_CALLS]", None, only_first=False, read=_listed),
    ToolForm("<|python_tag|>", None, only_first=False, read=_bare),
    ToolForm("{", None, only_first=True, read=lambda text: _bare("{" + text)),
)


@dataclass(frozen=True)
class CallSpelling:
    """How a template spells one call: texts around what is JSON.

    key: what the arguments are called beside the name; None = the name stands before the JSON.
    """

    before: str
    key: str | None
    after: str

    def opening(self, name: str) -> str:
        """The text before a call's JSON."""
        return self.before if self.key else self.before.replace(_SHOWN_NAME, name)


def find_form(template: ChatTemplate, specials: Collection[str]) -> ToolForm | None:
    """How the template's model writes calls; None = it has no tools, or writes them otherwise."""
    said = _shown_call(template)
    return next((form for form in FORMS if said and _reads(form, said, specials)), None)


def find_spelling(
    template: ChatTemplate, form: ToolForm, specials: Collection[str]
) -> CallSpelling | None:
    """A call letter by letter, so that an answer can be held to one; None = it is not JSON."""
    said = _shown_call(template) or ""
    start = said.find(form.begins)
    json_at = said.find("{", start)
    if start < 0 or json_at < 0:
        return None
    found, end = json.JSONDecoder().raw_decode(said, json_at)
    if form.ends:
        after = said[end : said.index(form.ends, end) + len(form.ends)]
    else:
        after = re.split("|".join(map(re.escape, specials)) or r"(?!)", said[end:])[0].strip()
    key = next((key for key in ("arguments", "parameters") if key in found), None)
    is_plain = found.get("name") == _SHOWN_NAME if key else _SHOWN_NAME in said[start:json_at]
    return CallSpelling(said[start:json_at], key, after) if is_plain else None


def _shown_call(template: ChatTemplate) -> str | None:
    """What an assistant says in a template that calls a tool; None = it shows no tools."""
    tool = {
        "type": "function",
        "function": {
            "name": _SHOWN_NAME,
            "description": "Looks a key up.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
        },
    }
    function = {"name": _SHOWN_NAME, "arguments": {"key": "val7"}}
    call = {"id": "call00001", "type": "function", "function": function}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    try:
        asked = template.render(talk[:1], tools=[tool], asks=True)
        told = template.render(talk, tools=[tool])
    except TemplateRefusal:
        return None
    if "Looks a key up." not in asked:
        return None
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(asked, told, strict=False))
    return told[sum(1 for _ in shared) :]


def _reads(form: ToolForm, said: str, specials: Collection[str]) -> bool:
    reader = CallReader(form, specials)
    _, calls = reader.add(said)
    calls = [*calls, *reader.finish()[1]]
    return [(call.name, json.loads(call.arguments)) for call in calls] == [
        (_SHOWN_NAME, {"key": "val7"})
    ]


class CallReader:
    """Parts the text of one answer into what is said and the calls in it, as it comes in."""

    def __init__(
        self, form: ToolForm, specials: Collection[str], *, most: int | None = None
    ) -> None:
        """Read calls of a form, or the first of them.

        specials: texts of special tokens, which are no part of either.
        """
        self._form = form
        self._most = most
        others = {*specials} - {form.begins, form.ends or "", "[ARGS]", "[CALL_ID]"}
        longest_first = sorted(filter(None, others), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._held = ""
        self._is_inside = False
        self._has_said = False

    def read(self, text: str, *, is_last: bool) -> tuple[str, list[ToolCall]]:
        """What `add` has, with what `finish` has where the answer ends with the text."""
        said, calls = self.add(text)
        if not is_last:
            return said, calls
        rest, more = self.finish()
        return said + rest, [*calls, *more]

    def add(self, text: str) -> tuple[str, list[ToolCall]]:
        """What is sure to be said with this text, and the calls that it ends."""
        self._held += text
        said, calls = "", []
        while True:
            if self._is_inside:
                if self._form.ends is None or self._form.ends not in self._held:
                    break
                inner, ends, behind = self._held.partition(self._form.ends)
                found = self._read(inner)
                calls += found
                said += "" if found else f"{self._form.begins}{inner}{ends}"
                self._held, self._is_inside = behind, False
                continue
            before, begins, behind = self._held.partition(self._form.begins)
            if begins and not (self._form.only_first and (self._has_said or before.strip())):
                said += before
                self._held, self._is_inside = behind, True
                continue
            keep = _overlap(self._held, self._form.begins)
            said += self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
            break
        return self._told(said), calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """What was held back, as text or as calls."""
        inner, self._held = self._held, ""
        if not self._is_inside:
            return self._told(inner), []
        calls = self._read(inner)
        return ("", calls) if calls else (self._told(self._form.begins + inner), [])

    def _read(self, inner: str) -> list[ToolCall]:
        try:
            return self._form.read(self._special.sub("", inner).strip())[: self._most]
        except (ValueError, RecursionError):
            return []  # what looks like a call and is none is said

    def _told(self, said: str) -> str:
        said = self._special.sub("", said)
        self._has_said = self._has_said or bool(said.strip())
        return said


def _overlap(text: str, mark: str) -> int:
    """How many characters at the text's end begin the mark."""
    longest = min(len(text), len(mark) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(mark[:size])), 0)
