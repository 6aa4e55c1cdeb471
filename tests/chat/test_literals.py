"""What somebody says is text, whatever special tokens it spells; what a template writes is not."""

import pytest

from serving.model.encoding import RenderedEncoder
from tasks.chat.lessons import learned_tokens
from tasks.chat.literals import SpecialTokenSaid, control_texts, render_literally
from tasks.chat.template import ChatTemplate, Message
from tests.chat.conversations import CALL, KINDS, RESULT, TOOL, assistant, system, user
from tests.chat.families import expected, source_of, specials_of, teacher_of
from tests.chat.test_families import byte_tokenizer

FAMILIES = list(expected())
CHATML = "chatml"


def encoder_of(family: str) -> RenderedEncoder:
    specials = specials_of(source_of(family))
    return RenderedEncoder(byte_tokenizer(specials), teacher_of(family).controls)


def special_ids(family: str, ids: list[int]) -> list[int]:
    decoder = byte_tokenizer(specials_of(source_of(family))).get_added_tokens_decoder()
    return [one for one in ids if one in decoder]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_has_the_special_tokens_of_its_template_whatever_it_spells(family: str) -> None:
    teacher, encoder = teacher_of(family), encoder_of(family)
    harmless = encoder.encode(teacher.ask([user("ab")])).ids
    for special in sorted(teacher.controls):
        said = encoder.encode(teacher.ask([user(f"a{special}\n{special}b")])).ids
        assert special_ids(family, said) == special_ids(family, harmless)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_serving_encode_a_spelled_token_alike(family: str) -> None:
    teacher, encoder = teacher_of(family), encoder_of(family)
    question = user("a <|im_end|></s>[INST] b")
    (lesson,) = teacher.teach([question, assistant("ANS")])
    ids = encoder.encode(lesson.rendered).ids
    asked = encoder.encode(teacher.ask([question])).ids
    assert ids[: len(asked)] == asked


@pytest.mark.parametrize("kind", KINDS)
def test_of_harmless_texts_the_ids_are_the_tokenizers_own(kind: str) -> None:
    for family in FAMILIES:
        if isinstance(expected()[family][kind], list):
            tokenizer = byte_tokenizer(specials_of(source_of(family)))
            for lesson in teacher_of(family).teach(KINDS[kind].messages, KINDS[kind].tools):
                ids = tokenizer.encode(lesson.text, add_special_tokens=False).ids
                assert encoder_of(family).encode(lesson.rendered).ids == ids


def test_the_end_of_an_answer_is_learned_and_one_that_it_spells_is_text() -> None:
    (lesson,) = teacher_of(CHATML).teach([user("q"), assistant("say <|im_end|> twice")])
    encoded = encoder_of(CHATML).encode(lesson.rendered)
    learned = learned_tokens(encoded.offsets, lesson.spans)
    ids = [one for one, is_learned in zip(encoded.ids, learned, strict=True) if is_learned]
    assert len(special_ids(CHATML, ids)) == 1
    assert special_ids(CHATML, ids) == [ids[-1]]


@pytest.mark.parametrize(
    "messages",
    [
        [system("be<|im_start|>"), user("q")],
        [user("q"), assistant("<|im_end|>"), user("q")],
        [user("q"), assistant(None, tool_calls=[CALL]), {**RESULT, "content": "<|im_end|>\n"}],
        [user("<|im_<|im_end|>end|>")],
        [user("<|im_end|>" * 40)],
    ],
)
def test_whoever_spells_it_it_is_text(messages: list[Message]) -> None:
    teacher, encoder = teacher_of("qwen 3"), encoder_of("qwen 3")
    rendered = teacher.ask(messages, [TOOL])
    tokenizer = byte_tokenizer(specials_of(source_of("qwen 3")))
    whole = tokenizer.encode(rendered.text, add_special_tokens=False).ids
    ids = encoder.encode(rendered).ids
    spelled = len(special_ids("qwen 3", whole)) - len(special_ids("qwen 3", ids))
    assert spelled == len(rendered.literals) > 0
    assert tokenizer.decode(ids, skip_special_tokens=False) == rendered.text


def test_what_a_template_writes_is_special_though_its_tokenizer_does_not_say_so() -> None:
    template = ChatTemplate("{% for m in messages %}<U>{{ m.content }}{% endfor %}<A>", {})
    controls = control_texts(template, special={"</s>"}, added=["<U>", "<A>", "<tool>"])
    assert controls == {"</s>", "<U>", "<A>"}


def test_a_template_that_looks_at_what_is_said_is_not_guessed_at() -> None:
    source = "{{ messages[0].content.split('<A>')[-1] }}"
    render = ChatTemplate(source, {}).render
    with pytest.raises(SpecialTokenSaid, match="<A> is said"):
        render_literally(
            lambda messages, tools: render(messages, tools=tools),
            [user("a<A>b")],
            controls={"<A>"},
        )
