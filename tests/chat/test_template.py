"""Conversations are rendered as transformers renders them."""

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.template import (
    ChatTemplate,
    read_chat_template,
)
from tasks.chat.trial import try_chat_template
from tasks.contract.errors import InvalidTuningConfig
from tests.chat.conversations import KINDS, user
from tests.chat.families import expected, source_of
from tests.chat.test_families import byte_tokenizer

FAMILIES = list(expected())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("asks", [False, True])
def test_a_text_is_that_of_transformers(family: str, asks: bool) -> None:
    reference = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=byte_tokenizer(set()), bos_token="<s>", eos_token="</s>"
    )
    reference.chat_template = source_of(family)
    template = ChatTemplate(source_of(family), {"bos_token": "<s>", "eos_token": "</s>"})
    for kind in ("single", "multi", "system", "thought beside", "white space", "user last"):
        if isinstance(expected()[family][kind], list):
            messages = [dict(message) for message in KINDS[kind].messages]
            text = reference.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asks
            )
            assert template.render(messages, asks=asks) == text


def test_a_template_for_tools_renders_rows_with_tools() -> None:
    named = {"default": "plain", "tool_use": "{{ tools[0].name }}"}
    template = ChatTemplate(named, {})
    assert template.render([user("q")]) == "plain"
    assert template.render([user("q")], tools=[{"name": "f"}]) == "f"


def test_a_refusal_is_told_in_the_templates_words() -> None:
    with pytest.raises(TemplateRefusal, match="no system here"):
        ChatTemplate("{{ raise_exception('no system here') }}", {}).render([user("q")])
    with pytest.raises(TemplateError):
        ChatTemplate("{% if %}", {})


def test_a_template_is_given_as_text_or_as_a_file() -> None:
    assert read_chat_template("{{ x }}") == "{{ x }}"
    with pytest.raises(InvalidTuningConfig, match=r"chat_template is '/no/such.jinja'"):
        read_chat_template("/no/such.jinja")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("{% for m in messages %}", "cannot be rendered"),
        ("{{ messages[0].content | shout }}", "cannot be rendered"),
        ("{{ nobody.knows }}", "cannot be rendered"),
        ("{{ 'always this' }}", "does not hold 'Six?'"),
        ("{% for m in messages %}{{ m.text }}\n{% endfor %}", "does not hold 'Six?'"),
    ],
)
def test_a_template_that_cannot_work_is_told_before_any_model_is_there(
    asked: str, words: str
) -> None:
    with pytest.raises(InvalidTuningConfig) as raised:
        try_chat_template(asked)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "asked", ["/mnt/mine.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}"]
)
def test_a_template_that_works_and_a_path_are_let_pass(asked: str) -> None:
    try_chat_template(asked)


def test_a_template_tells_what_it_looks_at_besides() -> None:
    source = "{{ bos_token }}{% if thinks is defined %}{{ thinks }}{% endif %}{{ messages }}"
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.variables == {"thinks"}
    assert template.render([], variables={"thinks": "yes", "bos_token": "no"}) == "<s>yes[]"
