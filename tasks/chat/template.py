"""A model's chat template: messages in, text out, as transformers renders it and without it.

A test holds the result against transformers' own `apply_chat_template`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from tasks.chat.bounds import BoundedEnvironment, TemplateOverrun, TemplateRefusal
from tasks.contract.errors import InvalidTuningConfig

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

# What a template comes to that does not take what it is given.
_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_ASKS_FOR_NULL = re.compile(r"""content['"]?\]? is (not )?none""")
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")
# Names for a message's reasoning; templates read the first, those of gpt-oss the second.
REASONING_WORDS = ("reasoning_content", "thinking", "reasoning")


def read_chat_template(asked: str) -> str:
    """The template that ModelConfig.chat_template asks for: the text itself, or its file's.

    Raises: InvalidTuningConfig: there is no such file.
    """
    # KAITO's rule: text with a brace or a line break is the template itself.
    if "{" in asked or "\n" in asked:
        return asked
    if not Path(asked).is_file():
        raise InvalidTuningConfig(
            f"ModelConfig.chat_template is {asked!r}",
            "there is no such file",
            "give a path in the container or the template's text",
        )
    return Path(asked).read_text(encoding="utf-8")


class ChatTemplate:
    """Renders conversations by one Jinja source, or by one of several named ones.

    Raises: jinja2.TemplateError: the source is no template. TemplateOverrun: nor ends in time.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        tokens: Mapping[str, Any],
        *,
        moment: datetime | None = None,
    ) -> None:
        """Render by a source, or by sources by name: `default`, and `tool_use` for rows with tools.

        Args: tokens: the texts of the special tokens that templates write, by name
            (`bos_token`, ...).
        moment: what templates that write a date take for now; None = the time of rendering.
        """
        named = {"default": source} if isinstance(source, str) else dict(source)
        self.source = named.get("default") or next(iter(named.values()))
        self.tool_source = named.get("tool_use", self.source)
        self.tokens = dict(tokens)
        self.moment = moment
        self._environment = _environment(moment)
        self._plain = self._environment.from_string(self.source)
        self._with_tools = self._environment.from_string(self.tool_source)
        self.variables = _variables(self._environment, self.source, self.tool_source)
        self._beside_calls = None if _ASKS_FOR_NULL.search(self.tool_source) else ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        asks: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation's text; asks: up to where the assistant is to answer.

        Args: variables: what the template looks at besides, of those in `self.variables`.
        Raises: TemplateRefusal; TemplateOverrun: in whatever form.
        """
        refusal: Exception | None = None
        with self._environment.rendering():
            for form in self._forms_of(messages):
                try:
                    return self._rendered(form, tools, asks=asks, variables=variables or {})
                except TemplateOverrun:
                    raise
                except MemoryError as error:
                    raise TemplateOverrun("it takes more memory than there is") from error
                except _FAULTS as error:
                    refusal = refusal or error
        raise TemplateRefusal(str(refusal) or type(refusal).__name__) from refusal

    def _forms_of(self, messages: Sequence[Message]) -> Iterator[list[dict[str, Any]]]:
        """The messages as templates may want them, who disagree on calls of tools.

        Arguments are an object for most and JSON text for some; content beside a call is "" for
        most and null for those that ask for it.
        """
        aliased = [_with_reasoning_aliases(message) for message in messages]
        if not any(message.get("tool_calls") for message in messages):
            yield aliased
            return
        for beside in dict.fromkeys((self._beside_calls, "", None)):
            form = [{**m, "content": beside} if not m.get("content") else m for m in aliased]
            yield form
            yield [_with_arguments_as_text(message) for message in form]

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        asks: bool,
        variables: Mapping[str, Any],
    ) -> str:
        template = self._with_tools if tools else self._plain
        text: str = template.render(
            **{**variables, **self.tokens},
            messages=messages,
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=asks,
        )
        return text


def _variables(environment: BoundedEnvironment, *sources: str) -> frozenset[str]:
    """The names that templates look up and are not given anyhow."""
    looked_up = (meta.find_undeclared_variables(environment.parse(source)) for source in sources)
    names = frozenset[str]().union(*looked_up) - {*_GIVEN, *environment.globals}
    return frozenset(name for name in names if not name.endswith("_token"))


def _with_reasoning_aliases(message: Message) -> dict[str, Any]:
    named = (message[word] for word in REASONING_WORDS if message.get(word) is not None)
    reasoning = next(named, None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _with_arguments_as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        {
            **call,
            "function": {**call["function"], "arguments": _to_json(call["function"]["arguments"])},
        }
        for call in calls
    ]
    return message | {"tool_calls": written}


class _GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant says; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the two marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(moment: datetime | None) -> BoundedEnvironment:
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: _at(moment).strftime(layout)
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates write the name
    **layout: Any,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _refuse(message: str) -> str:
    raise TemplateError(message)


def _at(moment: datetime | None) -> datetime:
    return moment or datetime.now().astimezone()
