"""Conversations and texts as token ids, with the chat template of the model that is asked."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from serving.engine import Message
from serving.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompts:
    """Encodes for every served model; safe to call from several threads."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, adapters: Mapping[str, Path]
    ) -> None:
        """Adapters with a chat template in their folder use it, the others the base model's."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # a fast tokenizer cannot be borrowed twice
        self._templates = {name: _chat_template(path) for name, path in adapters.items()}

    def encode_chat(self, messages: Sequence[Message], *, model: str) -> list[int]:
        """Token ids up to where the assistant answers. Raises: ApiError."""
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
            with self._lock:
                text = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=template,
                    add_generation_prompt=True,
                    tokenize=False,
                )
        except TemplateError as error:
            raise ApiError(
                400,
                f"the chat template of {model} does not take these messages: {error}",
                param="messages",
            ) from error
        return self._ids(str(text), add_special_tokens=False)

    def has_chat_template(self, model: str) -> bool:
        """Whether the model takes messages."""
        return bool(self._templates.get(model) or self._tokenizer.chat_template)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text as it is, behind the model's own first token if it has one."""
        return self._ids(text, add_special_tokens=True)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with self._lock:
            encoded: Any = self._tokenizer(text, add_special_tokens=add_special_tokens)
        return list(encoded["input_ids"])


def _chat_template(folder: Path) -> str | None:
    """The folder's own template, from its file or out of tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None
