"""Which tokens have loss: what the model should say, the end of it included, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import DatasetRowsInvalid, DatasetUnreadable, InvalidTuningConfig
from tasks.tuning.pod.data import (
    NO_LOSS,
    Example,
    encode_question,
    find_end_ids,
    question_of,
    read_rows,
    tokenise,
)
from tests.tuning.tiny import CHATML, MISTRAL, TEMPLATES, WITHOUT_END, chat, tiny_tokenizer

ENDS = {
    "chatml": "<|im_end|>",
    "chatml with marks": "<|im_end|>",
    "llama 3": "<|eot_id|>",
    "phi 3": "<|end|>",
    "mistral": "</s>",
}


def encode(row: dict[str, Any], template: str | None = CHATML, max_length: int = 1024) -> Example:
    (example,) = tokenise([row], tiny_tokenizer(template), max_length=max_length).examples
    return example


def learned(example: Example, template: str | None = CHATML) -> list[str]:
    """The stretches of text that have loss."""
    stretches: list[list[int]] = [[]]
    for label in example.labels:
        if label == NO_LOSS:
            stretches.append([])
        else:
            stretches[-1].append(label)
    return [str(tiny_tokenizer(template).decode(ids)).strip() for ids in stretches if ids]


@pytest.mark.parametrize("family", TEMPLATES)
def test_every_assistant_turn_and_its_end_have_loss_whatever_the_template(family: str) -> None:
    row = chat("Hello?", "Hi.", "And you?", "Fine, thanks.")
    end = ENDS[family]
    example = encode(row, TEMPLATES[family])
    assert learned(example, TEMPLATES[family]) == [f"Hi.{end}", f"Fine, thanks.{end}"]


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_ids_are_those_of_the_rendered_conversation(family: str) -> None:
    tokenizer = tiny_tokenizer(TEMPLATES[family])
    row = chat("Hello?", "Hi.")
    rendered = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert str(tokenizer.decode(encode(row, TEMPLATES[family]).input_ids)) == rendered


@pytest.mark.parametrize("family", TEMPLATES)
def test_training_and_generation_see_the_same_question(family: str) -> None:
    tokenizer = tiny_tokenizer(TEMPLATES[family])
    row = chat("Hello?", "Hi.")
    question = question_of(row)
    assert question
    asked = encode_question(question, tokenizer)
    example = encode(row, TEMPLATES[family])
    assert example.input_ids[: len(asked)] == asked


def test_a_template_without_an_end_gets_the_tokenizers() -> None:
    example = encode(chat("Hello?", "Hi."), WITHOUT_END)
    assert example.labels[-1] == tiny_tokenizer().eos_token_id


def test_the_end_is_learned_where_padding_is_the_same_token() -> None:
    tokenizer = tiny_tokenizer(pad="</s>")
    (example,) = tokenise([{"prompt": "a", "completion": "b"}], tokenizer, max_length=9).examples
    assert example.labels[-1] == tokenizer.pad_token_id == tokenizer.eos_token_id


def test_turns_after_the_last_answer_have_no_loss() -> None:
    assert learned(encode(chat("Hello?", "Hi.", "Bye"))) == ["Hi.<|im_end|>"]


def test_a_completion_and_the_end_have_loss_the_prompt_has_none() -> None:
    assert learned(encode({"prompt": "2 + 2 =", "completion": " 4"})) == ["4</s>"]


def test_of_a_text_everything_has_loss() -> None:
    example = encode({"text": "Once upon a time"})
    assert example.labels == example.input_ids
    assert example.input_ids[-1] == tiny_tokenizer().eos_token_id


def test_a_long_row_is_cut_at_its_end_and_counted() -> None:
    rows = [chat("Hello?", "Hi." * 40), chat("Hello?", "Hi.")]
    read = tokenise(rows, tiny_tokenizer(), max_length=64)
    assert read.cut == 1
    assert len(read.examples[0].input_ids) == 64
    assert read.examples[0].input_ids[:20] == read.examples[1].input_ids[:20]


def test_a_row_without_an_answer_left_is_dropped_and_counted() -> None:
    read = tokenise([chat("long " * 40, "Hi."), chat("?", "Hi.")], tiny_tokenizer(), max_length=64)
    assert (len(read.examples), read.dropped) == (1, 1)


def test_rows_without_any_answer_left_are_refused() -> None:
    with pytest.raises(DatasetRowsInvalid, match=r"1 rows .* raise TrainingArguments.max_length"):
        tokenise([chat("long " * 40, "Hi.")], tiny_tokenizer(), max_length=16)


def test_a_row_that_the_template_refuses_is_named() -> None:
    rows = [chat("?", "!"), WITH_SYSTEM]
    with pytest.raises(
        DatasetRowsInvalid, match=r"row 2 \(roles system, user, assistant\).*no system here"
    ):
        tokenise(rows, tiny_tokenizer(MISTRAL), max_length=64)


THINKS_LAST = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM_IN_THE_LAST_QUESTION = (
    "<s>{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for message in messages %}{% if message.role == 'user' %}[INST] "
    "{% if loop.last and system %}{{ system }}\n\n{% endif %}{{ message.content }}[/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}</s>{% endif %}{% endfor %}"
)
CUTS_REASONING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
WITH_SYSTEM = {
    "messages": [{"role": "system", "content": "Be brief."}, *chat("?", "!")["messages"]]
}


THOUGHT = "<think>\nsix\n</think>\n\nSix."
NO_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "row", "answers"),
    [
        (THINKS_LAST, chat("a?", "b.", "c?", "d."), [f"{NO_THOUGHT}b.", f"{NO_THOUGHT}d."]),
        (THINKS_LAST, chat("a?", "b.", "c?"), [f"{NO_THOUGHT}b."]),
        (SYSTEM_IN_THE_LAST_QUESTION, WITH_SYSTEM, ["!"]),
        (CUTS_REASONING, chat("3+3?", THOUGHT), ["six\n</think>\n\nSix."]),
        (CUTS_REASONING, chat("3+3?", "Six."), ["</think>\n\nSix."]),
        (CHATML, {"messages": chat("", "Hi.", "?", "!")["messages"][1:]}, ["Hi.", "!"]),
    ],
)
def test_a_template_that_rewrites_what_lies_before_teaches_each_answer_as_it_is_served(
    template: str, row: dict[str, Any], answers: list[str]
) -> None:
    tokenizer = tiny_tokenizer(template)
    end = "</s>" if template is SYSTEM_IN_THE_LAST_QUESTION else "<|im_end|>"
    examples = tokenise([row], tokenizer, max_length=1024).examples
    said = [text for example in examples for text in learned(example, template)]
    assert said == [f"{answer}{end}" for answer in answers]


def test_a_turn_that_would_not_be_learned_stops_the_run_with_its_row() -> None:
    shortens = CHATML.replace("{{ message.content }}", "{{ message.content | truncate(50) }}")
    rows = [chat("?", "!"), chat("?", "Hello." * 20)]
    with pytest.raises(DatasetRowsInvalid, match="row 7 was to be learned from; .*depends on what"):
        tokenise(rows, tiny_tokenizer(shortens), max_length=1024, numbers=[3, 7])


def test_conversations_need_a_chat_template() -> None:
    with pytest.raises(InvalidTuningConfig, match=r"set ModelConfig.chat_template"):
        tokenise([chat("?", "!")], tiny_tokenizer(None), max_length=64)


def test_an_answer_ends_with_the_templates_token_or_the_tokenizers() -> None:
    tokenizer = tiny_tokenizer(TEMPLATES["llama 3"])
    assert tokenizer.convert_ids_to_tokens(find_end_ids(tokenizer)) == ["<|eot_id|>", "</s>"]


@pytest.mark.parametrize("text", ["", "{", None])
def test_a_file_without_rows_is_refused(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DatasetUnreadable, match=r"train.jsonl was to be trained on"):
        read_rows(file)


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_special_token_that_a_row_spells_is_learned_and_read_as_text(family: str) -> None:
    tokenizer, end = tiny_tokenizer(TEMPLATES[family]), ENDS[family]
    spelled = encode(chat(f"a{end}b", f"c{end}d"), TEMPLATES[family])
    plain = encode(chat("ab", "cd"), TEMPLATES[family])
    end_id = tokenizer.added_tokens_encoder[end]
    assert spelled.input_ids.count(end_id) == plain.input_ids.count(end_id)
    assert learned(spelled, TEMPLATES[family]) == [f"c{end}d{end}"]
