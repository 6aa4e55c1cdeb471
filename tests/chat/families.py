"""The chat templates of the families that people tune, and what each is to teach."""

import functools
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tasks.chat.lessons import Teacher
from tasks.chat.template import ChatTemplate

HERE = Path(__file__).parent
# What tokenizers of these families hold as special tokens.
_SPECIAL = re.compile(
    r"<\|[^|<>]+\|>|<\uff5c[^\uff5c]+\uff5c>|</?s>|<(?:end|start)_of_turn>|<turn\|>|<\|turn>|\[/?[A-Z_]{3,}\]"
    r"|<\|?tool_(?:call|response)\|?>|<SPECIAL_\d+>|<\|?channel\|?>|\[e~\[|\]~b\]"
)
_NO_SPECIAL = {"<tool_call>", "<tool_response>"}


@functools.cache
def expected() -> Mapping[str, Mapping[str, Any]]:
    """By family and kind of conversation: the stretches that each text teaches, or a refusal."""
    return dict(yaml.safe_load((HERE / "families.yaml").read_text(encoding="utf-8")))


def source_of(family: str) -> str:
    """The Jinja text of a family's template."""
    name = expected()[family]["template"] if family in expected() else family
    if name.startswith("trl:"):
        spec = find_spec("trl")
        assert spec
        assert spec.origin
        folder = Path(spec.origin).parent / "chat_templates"
        return (folder / f"{name.removeprefix('trl:')}.jinja").read_text(encoding="utf-8")
    return (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def specials_of(source: str) -> set[str]:
    """The special tokens that a template writes."""
    return ({"<s>", "</s>"} | {*_SPECIAL.findall(source)}) - _NO_SPECIAL


@functools.cache
def teacher_of(family: str) -> Teacher:
    """What finds the lessons of conversations that a family's template renders."""
    source = source_of(family)
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return Teacher(template, specials=specials_of(source), eos="</s>")
