"""How many tokens a row has for the base model, without loading transformers, which takes seconds.

`tokenizer.json` and the chat template are used directly; a test holds the result against
transformers' own `apply_chat_template`.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tasks.contract.errors import WeightsUnavailable
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import NormalRow

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class _GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant says; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the two marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TokenCounter:
    """Counts a row's tokens the way training sees them: rendered, and with the end token.

    Raises: WeightsUnavailable: the folder has no usable tokenizer or chat template.
    """

    def __init__(self, weights_dir: Path) -> None:
        self._tokenizer = _tokenizer(weights_dir)
        config = _read_json(weights_dir / "special_tokens_map.json")
        config |= _read_json(weights_dir / "tokenizer_config.json")
        self._special = {
            name: text for name in SPECIAL_TOKENS if (text := _token_text(config.get(name)))
        }
        eos = self._special.get("eos_token")
        self._eos_id = self._tokenizer.token_to_id(eos) if eos else None
        try:
            source = _chat_template(weights_dir, config)
            self._template = _environment().from_string(source) if source else None
        except TemplateError as error:
            raise _unusable(weights_dir, f"its chat template is broken ({error})") from error

    def rendered(self, row: NormalRow) -> str:
        """The text that a row is trained on.

        Raises: Unfit: the chat template refuses the conversation.
        """
        messages = row.get("messages")
        if isinstance(messages, str) or messages is None:
            return "".join(str(value) for value in row.values())
        if self._template is None:
            return "\n".join(message["content"] for message in messages)
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=False,
                **self._special,
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages[:8])
            raise Unfit(f"the model's chat template refuses it (roles {roles}): {error}") from error

    def count(self, texts: Sequence[str], *, plain: bool) -> list[int]:
        """The tokens of each text; plain: no template wrote the start and end tokens into it."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=plain)
        if not plain or self._eos_id is None:
            return [len(encoding.ids) for encoding in encodings]
        # Some tokenizers end every text themselves.
        return [len(one.ids) + (one.ids[-1:] != [self._eos_id]) for one in encodings]


def _tokenizer(weights_dir: Path) -> Any:
    path = weights_dir / "tokenizer.json"
    if not path.is_file():
        raise _unusable(weights_dir, "there is no tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise _unusable(weights_dir, f"its tokenizer.json is broken ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unusable(weights_dir: Path, found: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"cannot count tokens with the base model in {weights_dir}",
        f"{found}",
        "fetch it again",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _token_text(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _chat_template(weights_dir: Path, config: dict[str, Any]) -> str:
    path = weights_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default", "")
    return str(found)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now_as
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates write the name
    **layout: Any,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _refuse(message: str) -> str:
    raise TemplateError(message)


def _now_as(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
