"""Conversations and texts as token ids, with the chat template of the model that is asked."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from serving.engine import ASKED, ChatForm, Message, Tools
from serving.errors import ApiError, shown
from serving.model.adapter_folder import read_short
from serving.model.encoding import RenderedEncoder
from serving.tool_calls import find_form, find_spelling
from tasks.chat.bounds import TemplateOverrun, TemplateRefusal
from tasks.chat.literals import Rendered, SpecialTokenSaid, control_texts, render_literally
from tasks.chat.template import ChatTemplate, Tool
from tasks.chat.trial import render_apart
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.serving import AdapterSource

# Of a text that is too long for certain: a part at a time, in which a token or two fewer may come
# to be where it is read whole.
_SLICE_CHARACTERS, _LOST_AT_A_CUT = 16_384, 16
_TALK = ({"role": "user", "content": "Six?"}, {"role": "assistant", "content": "Seven."})

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompts:
    """Encodes for every served model; safe to call from several threads."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, adapters: Sequence[AdapterSource]
    ) -> None:
        """Adapters with a chat template in their folder use it, the others the base model's.

        Raises: AdapterMismatch.
        """
        self._tokenizer = tokenizer
        # A fast tokenizer can be read by many and changed by nobody meanwhile: what a call would
        # change of it (no truncation, no padding) is so after the first one. Long texts are read
        # beside each other then, and nobody waits for another's prompt.
        tokenizer("", add_special_tokens=False)
        self._renderers: dict[str, _Renderer] = {}
        self._templates = {source.name: self.template_of(source) for source in adapters}

    def template_of(self, source: AdapterSource) -> str | None:
        """An adapter's own chat template, which ends in time; None = the base model's.

        Raises: AdapterMismatch.
        """
        template = None
        try:
            template = _chat_template(source.path)
            if template and template != self._tokenizer.chat_template:
                render_apart(template, _TALK)
        except (OSError, ValueError) as error:
            if not isinstance(error, TemplateRefusal) or isinstance(error, TemplateOverrun):
                raise _unusable(source, error) from error
            # It refuses this conversation, and may take others.
        return template

    def add(self, name: str, template: str | None) -> None:
        """Encode for one adapter more, by `template_of` it."""
        self._templates[name] = template

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        self._templates.pop(name, None)

    def encode_chat(
        self, messages: Sequence[Message], *, model: str, form: ChatForm = ASKED
    ) -> list[int]:
        """Token ids, by default up to where the assistant answers. Raises: ApiError."""
        template = self._templates.get(model) or self._tokenizer.chat_template
        if template is None:
            raise ApiError(
                400,
                f"model {model} has no chat template, so it takes no messages; use /v1/completions"
                " or tune it with a chat template",
                param="messages",
                code="no_chat_template",
            )
        try:
            renderer = self._renderer(template)
            rendered = renderer.render(messages, form)
            return renderer.encoder.encode(rendered).ids
        except (TemplateError, TemplateRefusal, SpecialTokenSaid) as error:
            raise ApiError(
                400,
                f"the chat template of {model} does not take these messages: {error}",
                param="messages",
            ) from error

    def has_chat_template(self, model: str) -> bool:
        """Whether the model takes messages."""
        return bool(self._templates.get(model) or self._tokenizer.chat_template)

    def tools_of(self, model: str) -> Tools:
        """How the model calls tools. Raises: ApiError."""
        template = self._templates.get(model) or self._tokenizer.chat_template
        tools = self._renderer(template).tools if template else None
        if tools is None:
            raise ApiError(
                400,
                f"tools were given, the chat template of {model} has no place for them, or writes"
                " calls in a way that this server does not read; ask without tools",
                param="tools",
                code="unsupported_parameter",
            )
        return tools

    def encode_text(self, text: str, *, adds: bool = True) -> list[int]:
        """Token ids of a text as it is, behind the model's own first token if it adds one."""
        encoded: Any = self._tokenizer(text, add_special_tokens=adds)
        return list(encoded["input_ids"])

    def exceeds(self, texts: Iterable[str], tokens: int) -> bool:
        """Whether texts are surely of more tokens together; reads no more of them than needed."""
        found = 0
        for text in texts:
            for at in range(0, len(text), _SLICE_CHARACTERS):
                part = text[at : at + _SLICE_CHARACTERS]
                found += max(0, len(self.encode_text(part, adds=False)) - _LOST_AT_A_CUT)
                if found > tokens:
                    return True
        return False

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary has it."""
        return [str(each) for each in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def _renderer(self, source: str | dict[str, str]) -> "_Renderer":
        """What rows were rendered with when the model was tuned."""
        key = str(source)
        if key not in self._renderers:
            self._renderers[key] = _Renderer(source, self._tokenizer)
        return self._renderers[key]


class _Renderer:
    """One chat template, and what is special to it."""

    def __init__(self, source: str | dict[str, str], tokenizer: "PreTrainedTokenizerBase") -> None:
        self._template = ChatTemplate(source, tokenizer.special_tokens_map)
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        self._controls = control_texts(
            self._template,
            special=special | {*tokenizer.all_special_tokens},
            added=[token.content for token in added],
        )
        self.encoder = RenderedEncoder(tokenizer.backend_tokenizer, self._controls)
        form = find_form(self._template, self._controls)
        spelling = find_spelling(self._template, form, self._controls) if form else None
        marks = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self.tools = Tools(form, self._controls, spelling, marks) if form else None

    def render(self, messages: Sequence[Message], form: ChatForm) -> Rendered:
        """The conversation's text. Raises: ApiError, TemplateRefusal, SpecialTokenSaid."""
        self._check_variables(form.variables)

        def render(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
            if form.continues:
                return self._up_to_the_end_of_what_is_said(messages, tools, form)
            return self._template.render(
                messages, tools=tools, asks=form.asks, variables=form.variables
            )

        return render_literally(render, messages, form.tools, controls=self._controls)

    def _up_to_the_end_of_what_is_said(
        self, messages: Sequence[Message], tools: Sequence[Tool], form: ChatForm
    ) -> str:
        mark = f"Qz{secrets.token_hex(8)}zQ"
        marked = {**messages[-1], "content": f"{messages[-1]['content']}{mark}"}
        text = self._template.render(
            [*messages[:-1], marked], tools=tools, variables=form.variables
        )
        said, found, _ = text.rpartition(mark)
        if not found:
            raise TemplateRefusal("it leaves out the last message, which was to be continued")
        return said

    def _check_variables(self, variables: Mapping[str, Any]) -> None:
        known = self._template.variables
        for name, value in variables.items():
            param = f"chat_template_kwargs.{shown(name)}"
            if name not in known:
                takes = ", ".join(sorted(known)) or "none"
                raise ApiError(
                    400,
                    f"{param} was given, the chat template takes {takes}; leave it out",
                    param=param,
                    code="unsupported_parameter",
                )
            if any(control in str(value) for control in self._controls):
                raise ApiError(400, f"{param} spells a special token; give it without", param=param)


def _unusable(source: AdapterSource, error: Exception) -> AdapterMismatch:
    return AdapterMismatch(
        f"adapter {source.name} brings a chat template",
        f"it cannot be used ({error})",
        "correct its chat_template.jinja, or leave it out to have the base model's",
    )


def _chat_template(folder: Path) -> str | None:
    """The folder's own template, from its file or out of tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_short(file)
    config = folder / "tokenizer_config.json"
    found = json.loads(read_short(config)).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None
