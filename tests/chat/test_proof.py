"""The proof lets no text pass that teaches more, less or something else than was said."""

from collections.abc import Sequence
from typing import Any

import pytest

from tasks.chat.proof import Unteachable, prove, prove_tokens
from tests.chat.conversations import CALL, TOOL, assistant, system, thought, user

MESSAGES = [
    system("Be brief."),
    user("Why?"),
    assistant("Because."),
    user("So?"),
    assistant("Yes."),
]
TEXT = "<s>[Be brief.] [Why?] Because.</s> [So?] Yes.</s>"
FIRST = (TEXT.index("Because"), TEXT.index(" [So"))
SECOND = (TEXT.index("Yes"), len(TEXT))


def proved(**changed: Any) -> None:
    stated: dict[str, Any] = {
        "messages": MESSAGES,
        "tools": (),
        "turns": [2, 4],
        "text": TEXT,
        "spans": [FIRST, SECOND],
        "ends": {"</s>"},
        "scaffold": "<s>[ ]</s> TOOL <think>",
    }
    stated |= changed
    prove(stated.pop("messages"), stated.pop("tools"), **stated)


def moved(span: tuple[int, int], *, start: int = 0, stop: int = 0) -> tuple[int, int]:
    return (span[0] + start, span[1] + stop)


def test_a_text_that_teaches_each_answer_and_its_end_is_proved() -> None:
    proved()


def test_a_turn_that_is_not_to_be_learned_is_read() -> None:
    proved(turns=[4], spans=[SECOND])


def test_a_system_prompt_may_be_moved() -> None:
    text = "[Why?] Because.</s> [Be brief. So?] Yes.</s>"
    spans = [(text.index("Because"), text.index(" [Be")), (text.index("Yes"), len(text))]
    proved(text=text, spans=spans)


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([FIRST], "2 assistant turns are to be learned, 1 would be"),
        ([FIRST, SECOND, SECOND], "2 assistant turns are to be learned, 3 would be"),
        ([FIRST, moved(SECOND, stop=-4)], r"the end of message 5 \(assistant\)"),
        ([moved(FIRST, start=1), SECOND], r"message 3 \(assistant\) .* leaves out 'Because.'"),
        ([moved(FIRST, start=-6), SECOND], r"message 2 \(user\) .* leaves out 'Why\?'"),
        ([FIRST, moved(SECOND, start=-3)], r"message 4 \(user\) .* leaves out 'So\?'"),
        ([SECOND, SECOND], "message 3"),
        ([SECOND, FIRST], "message 3"),
    ],
)
def test_spans_that_are_not_the_answers_are_found(
    spans: Sequence[tuple[int, int]], reason: str
) -> None:
    with pytest.raises(Unteachable, match=reason):
        proved(spans=spans)


@pytest.mark.parametrize("lost", ["Be brief.", "Why?", "Because.", "So?", "Yes."])
def test_what_is_lost_on_the_way_is_found(lost: str) -> None:
    text = TEXT.replace(lost, " " * len(lost))
    with pytest.raises(Unteachable, match=f"leaves out '{lost.replace('?', '.')}'"):
        proved(text=text)


def test_words_that_nobody_said_are_not_learned() -> None:
    text = TEXT.replace("Yes.", "Yes. Surely")
    with pytest.raises(Unteachable, match="words that it does not say .* 'Surely'"):
        proved(text=text, spans=[FIRST, (SECOND[0], len(text))])


def test_a_tool_that_the_text_does_not_have_is_found() -> None:
    with pytest.raises(Unteachable, match="leaves out the tool lookup: it knows no tools"):
        proved(tools=[TOOL])


@pytest.mark.parametrize("said", ["", "TOOL lookup", "TOOL val7 key", "TOOL lookup key"])
def test_a_call_is_learned_with_all_its_arguments(said: str) -> None:
    messages = [user("Why?"), assistant(None, tool_calls=[CALL])]
    with pytest.raises(Unteachable, match=r"message 2 \(assistant\) .* leaves out"):
        proved(messages=messages, turns=[1], text=f"Why? {said}</s>", spans=[(5, 9 + len(said))])
    whole = "Why? TOOL lookup key val7</s>"
    proved(messages=messages, turns=[1], text=whole, spans=[(5, len(whole))])


def test_a_thought_is_learned_and_ends() -> None:
    messages = [user("Why?"), assistant("Yes.", reasoning_content="Hm.")]
    text = "Why? <think>Hm.</think>Yes.</s>"
    proved(messages=messages, turns=[1], text=text, spans=[(5, len(text))])
    proved(messages=messages, turns=[1], text=text, spans=[(12, len(text))])
    with pytest.raises(Unteachable, match="leaves out 'Hm.'"):
        proved(messages=messages, turns=[1], text="Why? Yes.</s>", spans=[(5, 13)])
    open_thought = [user("Why?"), assistant("Yes.")]
    with pytest.raises(Unteachable, match="would never end the thought"):
        proved(messages=open_thought, turns=[1], text="Why? <think>Yes.</s>", spans=[(12, 20)])


def test_a_thought_that_was_cut_from_the_content_is_found() -> None:
    messages = [user("Why?"), assistant(thought("Hm.", "Yes."))]
    with pytest.raises(Unteachable, match="leaves out 'Hm.'"):
        proved(messages=messages, turns=[1], text="Why? Yes.</s>", spans=[(5, 13)])


@pytest.mark.parametrize(
    ("offsets", "learned", "reason"),
    [
        ([(0, 2), (2, 4), (4, 6)], [False, False, True], "of an answer would not be learned"),
        ([(0, 2), (2, 4), (4, 7)], [False, True, True], "merges .* with what follows"),
        ([(0, 2), (1, 4), (4, 6)], [False, True, True], "would be learned: not the assistant's"),
        ([(0, 2), (2, 4), (4, 6)], [True, True, True], "would be learned: not the assistant's"),
    ],
)
def test_tokens_that_are_not_the_spans_are_found(
    offsets: list[tuple[int, int]], learned: list[bool], reason: str
) -> None:
    prove_tokens("qqaaee!", [(0, 2), (2, 4), (4, 6), (6, 7)], [False, True, True, False], [(2, 6)])
    with pytest.raises(Unteachable, match=reason):
        prove_tokens("qqaaee!", offsets, learned, [(2, 6)])
