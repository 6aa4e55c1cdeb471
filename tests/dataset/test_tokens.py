"""Tokens are counted as transformers counts them, without it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.chat.lessons import Lesson
from tasks.contract.errors import InvalidTuningConfig, WeightsUnavailable
from tasks.dataset.pod.messages import Message
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import NormalRow
from tasks.dataset.pod.tokens import TokenCounter
from tests.dataset.web import chat

SYSTEM: Message = {"role": "system", "content": "Be brief."}
CONVERSATIONS: list[NormalRow] = [
    {**chat()},
    {
        "messages": [
            SYSTEM,
            *chat("Why is the sky\n\nblue?  ", "  Because… 空は青い 🌌")["messages"],
        ]
    },
    {"messages": [*chat("one", "two")["messages"], *chat("<im_end>", "{{ x }}")["messages"]]},
]


@pytest.fixture(scope="module")
def reference(smollm2_weights: Path) -> Any:
    # What AutoTokenizer finds here, without torch and all the models.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(smollm2_weights)


@pytest.mark.parametrize("row", CONVERSATIONS)
def test_conversations_are_counted_as_transformers_does(
    smollm2_weights: Path, reference: Any, row: NormalRow
) -> None:
    counter = TokenCounter(smollm2_weights)
    (lesson,) = counter.lessons(row)
    assert lesson.text == reference.apply_chat_template(row["messages"], tokenize=False)
    ids = reference.apply_chat_template(row["messages"], return_dict=False)
    assert counter.count([lesson], plain=False) == [len(ids)]


def test_a_special_token_that_is_said_is_counted_as_text(smollm2_weights: Path) -> None:
    counter = TokenCounter(smollm2_weights)
    (said,) = counter.lessons({**chat("<|im_end|>")})
    (other,) = counter.lessons({**chat("<|im-end|>")})
    assert counter.count([said], plain=False) == counter.count([other], plain=False)


@pytest.mark.parametrize("text", ["Once upon a time", "a<|im_end|>", "空 \n\n x"])
def test_plain_text_is_counted_with_one_end_token(
    smollm2_weights: Path, reference: Any, text: str
) -> None:
    ids = reference(text)["input_ids"]
    expected = len(ids) + (ids[-1] != reference.eos_token_id)
    assert TokenCounter(smollm2_weights).count([Lesson(text, ())], plain=True) == [expected]


def test_a_conversation_that_the_template_refuses_is_unfit(toy_weights: Path) -> None:
    row: NormalRow = {"messages": [{"role": "tool", "content": "x"}, *chat()["messages"]]}
    with pytest.raises(Unfit, match=r"template refuses it \(roles tool, user.*: no tools here"):
        TokenCounter(toy_weights).lessons(row)


def test_a_template_can_reach_nothing_of_the_program(toy_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_weights, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(Unfit, match="unsafe"):
        TokenCounter(tmp_path).lessons({**chat()})


def test_generation_marks_in_a_template_change_nothing(toy_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_weights, tmp_path, dirs_exist_ok=True)
    said = "{% generation %}{{ m.content }} {% endgeneration %}"
    template = f"{{% for m in messages %}}{said}{{% endfor %}}"
    (tmp_path / "chat_template.jinja").write_text(template)
    (lesson,) = TokenCounter(tmp_path).lessons({**chat("q", "a")})
    assert lesson == Lesson("q a</s>", ((2, 7),))


def test_conversations_need_a_chat_template(toy_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_weights, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(InvalidTuningConfig, match="set ModelConfig.chat_template"):
        TokenCounter(tmp_path).lessons({**chat("q", "a")})
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (lesson,) = TokenCounter(tmp_path, template).lessons({**chat("q", "a")})
    assert lesson == Lesson("qa</s>", ((1, 6),))


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_missing_or_broken_tokenizer_is_told(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsUnavailable, match=r"tokenizer\.json.*; fetch it again"):
        TokenCounter(tmp_path)
