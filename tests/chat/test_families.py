"""Of real chat templates every answer and its end are learned as served, and nothing else."""

import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.lessons import Lesson, learned_tokens, turns_to_learn
from tasks.chat.proof import Unteachable, prove_tokens
from tests.chat.conversations import KINDS
from tests.chat.families import expected, source_of, specials_of, teacher_of

FAMILIES = list(expected())


def lessons(family: str, kind: str) -> list[Lesson]:
    conversation = KINDS[kind]
    return teacher_of(family).teach(conversation.messages, conversation.tools)


def taught(family: str) -> list[Lesson]:
    """All lessons of the kinds of conversations that the family's template takes."""
    kinds = [kind for kind in KINDS if isinstance(expected()[family][kind], list)]
    return [lesson for kind in kinds for lesson in lessons(family, kind)]


def outcome(family: str, kind: str) -> list[list[str]] | str:
    """What is learned of each text, or why there is none."""
    try:
        return [[one.text[slice(*span)] for span in one.spans] for one in lessons(family, kind)]
    except (TemplateRefusal, Unteachable) as refusal:
        return f"refused: {refusal}"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_what_was_written_down(family: str) -> None:
    outcomes = {kind: outcome(family, kind) for kind in KINDS}
    assert {"template": expected()[family]["template"], **outcomes} == expected()[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_word_of_others_is_learned(family: str) -> None:
    learned = "".join(one.text[slice(*span)] for one in taught(family) for span in one.spans)
    assert not any(word in learned for word in ("q1", "q2", "SYS", "BAD", "res9"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_answer_stands_behind_what_a_server_would_be_asked(family: str) -> None:
    for kind in ("single", "multi", "system", "tool", "weight 0"):
        if isinstance(expected()[family][kind], list):
            first, conversation = lessons(family, kind)[0], KINDS[kind]
            before = conversation.messages[: turns_to_learn(conversation.messages)[0]]
            asked = teacher_of(family).ask(before, conversation.tools).text
            assert first.text[: first.spans[0][0]] == asked


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_the_spans_are_learned_and_no_others(family: str) -> None:
    tokenizer = byte_tokenizer(specials_of(source_of(family)))
    for lesson in taught(family):
        encoded = tokenizer.encode(lesson.text, add_special_tokens=False)
        learned = learned_tokens(encoded.offsets, lesson.spans)
        prove_tokens(lesson.text, encoded.offsets, learned, lesson.spans)
        ids = [one for one, is_learned in zip(encoded.ids, learned, strict=True) if is_learned]
        said = "".join(lesson.text[slice(*span)] for span in lesson.spans)
        assert tokenizer.decode(ids, skip_special_tokens=False) == said


def byte_tokenizer(specials: set[str]) -> Tokenizer:
    """One token a byte, and the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in sorted(specials)])
    return tokenizer
