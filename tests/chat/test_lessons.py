"""What real rows do to templates that is not in the table of families."""

from datetime import UTC, datetime

import pytest

from tasks.chat.lessons import Teacher
from tasks.chat.template import ChatTemplate
from tests.chat.conversations import CALL, RESULT, TOOL, assistant, user
from tests.chat.families import expected, source_of, specials_of, teacher_of

ODD = ("a", '"quoted"', "{{ x }}", "<|im_end|>", "x\ny", "assistant", "空 🌌", "</s>", "1")


@pytest.mark.parametrize("family", expected())
def test_odd_contents_are_learned_as_they_are(family: str) -> None:
    for text in ODD:
        turns = [user(text), assistant(text), user("q"), assistant(f"{text} {text}")]
        lessons = teacher_of(family).teach(turns)
        said = [lesson.text[slice(*span)] for lesson in lessons for span in lesson.spans]
        assert len(said) == 2
        assert text in said[0]
        assert f"{text} {text}" in said[1]


@pytest.mark.parametrize("family", ["qwen 3", "llama 3.1", "mistral v0.3", "gpt-oss", "glm 4.5"])
@pytest.mark.parametrize("result", ['{"a": "b c"}', 'say "x"\nand\ty', "7"])
@pytest.mark.parametrize("value", ["a b", 'say "x"', 7, 1.5, True, None, ["a", {"b": 1}]])
def test_odd_calls_and_results_are_rendered_whole(family: str, result: str, value: object) -> None:
    function = {"name": "lookup", "arguments": {"key": value}}
    calling = assistant(None, tool_calls=[{**CALL, "function": function}])
    turns = [user("q"), calling, {**RESULT, "content": result}, assistant("a")]
    lessons = teacher_of(family).teach(turns, [TOOL])
    said = [lesson.text[slice(*span)] for lesson in lessons for span in lesson.spans]
    assert "lookup" in said[0]
    assert len(said) == 2


def test_rows_are_rendered_alike_though_midnight_passes() -> None:
    source = "{{ strftime_now('%d %b %Y') }}" + source_of("chatml")
    moment = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    template = ChatTemplate(source, {}, moment=moment)
    (lesson,) = Teacher(template, specials=specials_of(source)).teach([user("q"), assistant("a")])
    assert lesson.text.startswith("30 Nov 2026")
