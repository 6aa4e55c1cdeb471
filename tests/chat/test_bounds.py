"""A template that takes for ever, or everything, is refused."""

import threading
import time

import pytest
from jinja2 import TemplateError

from tasks.chat import bounds
from tasks.chat.bounds import MOST_CHARACTERS, BoundedEnvironment, TemplateOverrun, TemplateRefusal
from tasks.chat.template import ChatTemplate
from tasks.chat.trial import render_apart, try_chat_template
from tasks.contract import apart
from tasks.contract.errors import InvalidTuningConfig
from tests.chat.conversations import user

FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set n = namespace(s='x', l=[0]) %}{% for a in range(60) %}{% set n.s = OP %}{% endfor %}"
)


def rendered(template: str) -> str:
    return ChatTemplate(template, {}).render([user("q")])


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_SECONDS", 0.1)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "template",
    [
        FOR_EVER,
        "{% for a in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 99 }}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(99) }}",
    ],
    ids=["loops", "recursive", "macro"],
)
def test_a_rendering_ends_in_time(template: str) -> None:
    with pytest.raises(TemplateOverrun, match=r"it takes over 0\.1 s"):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        DOUBLED.replace("OP", "n.s ~ n.s"),
        DOUBLED.replace("OP", "n.s + n.s"),
        DOUBLED.replace("n.s = OP", "n.l = n.l + n.l"),
        DOUBLED.replace("n.s = OP", "n.l = n.l * 2"),
        DOUBLED.replace("n.s = OP", "n.l = 2 * n.l"),
        "{{ 'x' * 99999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{% set n = namespace(i=9) %}{% for a in range(60) %}{% set n.i = n.i * n.i %}{% endfor %}",
        "{{ '%99999999d' % 1 }}",
        "{{ '%*d' % (99999999, 1) }}",
        "{% for a in range(99999) %}{{ 'x' * 9999999 }}{% endfor %}",
        "{% set x %}{% for a in range(99999) %}{{ 'x' * 9999999 }}{% endfor %}{% endset %}",
        "{% for a in range(99999) %}{% set x = 'x' * 9999999 %}{% endfor %}",
    ],
)
def test_what_a_template_puts_together_has_a_length(template: str) -> None:
    with pytest.raises(TemplateOverrun, match="of over"):
        rendered(template)


def test_what_is_long_and_not_too_long_is_rendered() -> None:
    times = MOST_CHARACTERS // 2
    assert rendered(f"{{{{ 'xy' * {times} }}}}") == "xy" * times
    assert rendered("{{ 2 ** 10 + 3 * 4 }} {{ '%05d' % 7 }} {{ [1] + [2] }}") == "1036 00007 [1, 2]"


def test_each_rendering_has_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one of the same thread has used its own up."""
    monkeypatch.setattr(bounds, "MOST_SECONDS", 0.1)
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    with pytest.raises(TemplateOverrun):
        rendered(FOR_EVER)
    assert template.render([user("q")]) == "q"
    began_s = time.thread_time()
    while time.thread_time() < began_s + 0.15:
        pass
    assert template.render([user("q")]) == "q"


def test_a_thread_s_time_is_its_own() -> None:
    environment = BoundedEnvironment()
    template = environment.from_string("{% for a in [1] %}{{ a }}{% endfor %}")
    told: list[str] = []
    with environment.rendering():

        def render() -> None:
            with environment.rendering():
                told.append(template.render())

        other = threading.Thread(target=render)
        other.start()
        other.join()
        assert told == [template.render()] == ["1"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("x" * 2**18 + "x", "over 262144 characters"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "too deeply nested"),
    ],
    ids=["long", "deep"],
)
def test_a_source_has_bounds_too(template: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        ChatTemplate(template, {})


@pytest.mark.parametrize(
    "template",
    ["{{ 1 // 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ range(10**9) }}"],
)
def test_a_fault_of_a_template_is_a_refusal(template: str) -> None:
    with pytest.raises(TemplateRefusal):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' | center(99999999999) }}",
        "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}",
        "{{ messages[0].content.ljust(99999999999) }}",
    ],
)
def test_a_filter_that_takes_all_memory_is_refused_by_the_plan(template: str) -> None:
    with pytest.raises(InvalidTuningConfig, match="cannot be rendered .*correct the template"):
        try_chat_template(template)


def test_a_template_that_hangs_in_one_call_is_ended_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "MOST_CPU_S", 1)
    nested = "{% set n = namespace(l=[]) %}{% for a in range(60) %}{% set n.l = [n.l, n.l] %}"
    with pytest.raises(TemplateOverrun, match="over 1 s or 512 MiB"):
        render_apart(nested + "{% endfor %}{{ n.l }}", [user("q")])


def test_what_is_rendered_apart_is_what_is_rendered_here() -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert render_apart(template, [user("Äpfel\n")]) == "<user>Äpfel\n"
    with pytest.raises(TemplateRefusal, match="no users here"):
        render_apart("{{ raise_exception('no users here') }}", [user("q")])
