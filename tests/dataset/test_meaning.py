"""Rows mean what their authors meant: honoured, refused with the reason, or told; never lost."""

import copy
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.lessons import Lesson
from tasks.chat.proof import Unteachable
from tasks.contract.errors import DatasetRowsInvalid
from tasks.contract.programs.dataset import DatasetColumns
from tasks.dataset.pod.rows import Unfit
from tasks.dataset.pod.shapes import LeftOut, normalise
from tests.chat.conversations import CALL, RESULT, TOOL, assistant, system, thought, user
from tests.chat.families import teacher_of
from tests.dataset.web import Bench, chat, jsonl

ANY = DatasetColumns()


def taught(row: Mapping[str, object], family: str = "qwen 3") -> list[Lesson]:
    normal = normalise(row, ANY).row
    return teacher_of(family).teach(normal["messages"], normal.get("tools", ()))


def learned(lessons: Sequence[Lesson]) -> str:
    return " ".join(one.text[slice(*span)] for one in lessons for span in one.spans)


def test_a_draft_of_weight_0_is_read_and_not_learned() -> None:
    draft = assistant("WRONG DRAFT", weight=0)
    row = {"messages": [user("len?"), draft, user("again"), assistant("It counts.", weight=1)]}
    lessons = taught(row)
    assert "WRONG DRAFT" in lessons[0].text
    assert "WRONG" not in learned(lessons)
    assert "It counts." in learned(lessons)


def test_a_system_prompt_beside_the_conversation_is_in_the_text() -> None:
    turns = [{"from": "human", "value": "len?"}, {"from": "gpt", "value": "It counts."}]
    lessons = taught({"conversations": turns, "system": "Answer as a pirate."})
    assert "Answer as a pirate." in lessons[0].text
    assert "pirate" not in learned(lessons)


def test_answers_that_are_labelled_bad_are_left_out_and_counted(bench: Bench) -> None:
    rows = [chat("a", "b") | {"label": True}, chat("c", "BAD") | {"label": False}]
    report = bench.prepare("data.jsonl", jsonl(*rows))
    assert (report["rows"], report["left_out_rows"]) == (1, 1)
    assert bench.rows() == [chat("a", "b")]


def test_a_dataset_of_rows_that_are_all_left_out_is_refused(bench: Bench) -> None:
    row = chat("a", "b") | {"weight": 0}
    with pytest.raises(DatasetRowsInvalid, match=r"no row is to be learned \(2 by weight\)"):
        bench.prepare("data.jsonl", jsonl(row, row))


@pytest.mark.parametrize("family", ["qwen 3", "llama 3.1", "mistral v0.3", "granite 4.1"])
def test_tools_are_in_the_text_and_calls_are_learned(family: str) -> None:
    calling = assistant(None, tool_calls=[CALL])
    row = {"messages": [user("q"), calling, RESULT, assistant("It is res9.")], "tools": [TOOL]}
    lessons = taught(row, family)
    assert "Looks up." in lessons[0].text
    assert "val7" in learned(lessons)
    assert '"content": "res9"' not in learned(lessons)


def test_tools_are_refused_where_the_template_knows_none() -> None:
    row = {"messages": [user("q"), assistant("a")], "tools": [TOOL]}
    with pytest.raises(Unteachable, match="leaves out the tool lookup: it knows no tools"):
        taught(row, "chatml")


def test_a_conversation_may_begin_with_the_assistant() -> None:
    turns = [("gpt", "Hello, ask me."), ("human", "What is len?"), ("gpt", "It counts.")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert all(text in learned(taught(row)) for text in ("Hello, ask me.", "It counts."))


def test_reasoning_is_learned_though_the_template_cuts_it() -> None:
    row = {"messages": [user("3+3?"), assistant(thought("six, since 3+3", "Six."))]}
    said = learned(taught(row, "deepseek r1 distill"))
    assert said.startswith("six, since 3+3\n</think>\n\nSix.")


def test_reasoning_that_a_template_leaves_out_is_told_with_the_remedy(bench: Bench) -> None:
    row = {"messages": [user("q"), assistant("a", reasoning_content="hm")]}
    (column,) = bench.prepare("data.jsonl", jsonl(row))["unused_columns"]
    assert (column["name"], column["rows"]) == ("messages[].reasoning_content", 1)
    assert "<think>" in column["remedy"]


def test_most_rows_that_teach_nothing_stop_the_run_with_the_length_that_helps(bench: Bench) -> None:
    rows = [*[chat("w " * 50, "x")] * 14, chat("w " * 5000, "x"), *[chat("w", "x")] * 5]
    found = r"15 of 20 rows teach nothing.*; TrainingArguments.max_length: 64 would keep 19"
    with pytest.raises(DatasetRowsInvalid, match=found):
        bench.prepare("data.jsonl", jsonl(*rows), max_length=32)


def test_most_rows_whose_answers_are_cut_stop_the_run_with_the_length_that_helps(
    bench: Bench,
) -> None:
    rows = [*[chat("w", "x " * 50)] * 14, chat("w", "x " * 5000), *[chat("w", "x")] * 5]
    found = r"15 of 20 rows teach no answer to its end.*; TrainingArguments.max_length: 64 would "
    accepted = r'keep 19; or accept it with .*bad-rows-tolerance: "0.75"'
    with pytest.raises(DatasetRowsInvalid, match=found + accepted):
        bench.prepare("data.jsonl", jsonl(*rows), max_length=32)
    report = bench.prepare("data.jsonl", jsonl(*rows), max_length=32, bad_rows_tolerance=0.75)
    assert report["cut_answer_rows"] == 15


def test_a_conversation_teaches_an_answer_to_its_end_if_a_later_one_is_cut(bench: Bench) -> None:
    row = {"messages": [user("w"), assistant("x"), user("w"), assistant("x " * 50)]}
    report = bench.prepare("data.jsonl", jsonl(row), max_length=32)
    assert (report["cut_answer_rows"], report["silent_rows"]) == (1, 0)


def test_texts_that_answer_nothing_may_all_be_cut(bench: Bench) -> None:
    report = bench.prepare("data.jsonl", jsonl({"text": "x " * 50}), max_length=32)
    assert report["truncated_rows"] == 1


@pytest.mark.parametrize(("bad", "share"), [(1, "0.334"), (2, "0.5")])
def test_the_share_that_is_told_is_enough(bench: Bench, bad: int, share: str) -> None:
    rows = [*[chat("a", "b")] * 2, *[{"messages": "none"}] * bad]
    with pytest.raises(DatasetRowsInvalid, match=f'bad-rows-tolerance: "{share}"'):
        bench.prepare("data.jsonl", jsonl(*rows))
    report = bench.prepare("data.jsonl", jsonl(*rows), bad_rows_tolerance=float(share))
    assert report["rows"] == 2


def test_rows_that_teach_less_than_they_say_are_counted(bench: Bench) -> None:
    rows = [chat("w " * 50, "x"), chat("w", "x " * 50), chat("w", "..."), chat("w", "x")]
    report = bench.prepare("data.jsonl", jsonl(*rows), max_length=32)
    counted = ("silent_rows", "cut_answer_rows", "bare_answer_rows", "advised_max_length")
    assert [report[name] for name in counted] == [1, 1, 1, 64]


def test_no_row_is_longer_than_what_the_model_can_read(bench: Bench) -> None:
    (bench.weights_dir / "config.json").write_text(json.dumps({"max_position_embeddings": 16}))
    try:
        report = bench.prepare("data.jsonl", jsonl(chat("w", "x " * 50), chat("w", "x")))
    finally:
        (bench.weights_dir / "config.json").unlink()
    assert (report["max_length"], report["truncated_rows"], report["cut_answer_rows"]) == (16, 1, 1)


ROWS: list[dict[str, Any]] = [
    {"messages": [system("sys"), user("one"), assistant("two"), user("three"), assistant("four")]},
    {
        "messages": [
            *(user("one"), assistant(None, tool_calls=[CALL]), RESULT),
            assistant("two", reasoning_content="hm"),
        ],
        "tools": [TOOL],
    },
    {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]},
    {"messages": [user("one"), assistant([{"type": "text", "text": "two"}])]},  # type: ignore[arg-type]
    {"instruction": "one", "input": "two", "output": "three", "system": "four"},
    {"question": "one", "answers": ["two", "three"], "context": "four"},
]
WORDS = [
    *("system", "tools", "functions", "label", "weight", "train", "training", "content", "value"),
    *("role", "from", "thinking", "reasoning", "reasoning_content", "function_call", "tool_calls"),
    *("answers", "answer", "history", "context", "text", "prefix", "note", "parameters"),
]


def objects(value: object) -> list[dict[str, Any]]:
    """Every object of a row, itself included, but what is inside tools, which is whole."""
    if isinstance(value, dict):
        inner = (one for name, one in value.items() if name not in ("tools", "arguments"))
        return [value, *(found for one in inner for found in objects(one))]
    return [found for one in value for found in objects(one)] if isinstance(value, list) else []


@pytest.mark.parametrize("seed", range(10))
def test_of_a_hundred_mutated_rows_nothing_is_lost_silently(seed: int) -> None:
    random = Random(seed)
    for number in range(100):
        row, sign = copy.deepcopy(random.choice(ROWS)), f"zq{number}zq"
        word = random.choice(WORDS)
        forms = (sign, f" {sign}\n", [sign], {"x": sign}, [{"type": "text", "text": sign}])
        random.choice(objects(row))[word] = random.choice(forms)
        try:
            normal, unused = normalise(row, ANY)
            lessons = teacher_of("qwen 3").teach(normal["messages"], normal.get("tools", ()))
        except (Unfit, LeftOut, Unteachable, TemplateRefusal):
            continue
        except KeyError:
            assert "text" in normal
            continue
        is_told = any(name.split(".")[-1].startswith(word) for name in unused)
        assert is_told or any(sign in lesson.text for lesson in lessons), (word, row, unused)
