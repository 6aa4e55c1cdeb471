"""The page at / in a real browser.

With SCREENSHOTS=FOLDER pictures of what was seen stay there.
"""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page, open_page
from tests.serving.running import Running

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 740, "deviceScaleFactor": 2, "mobile": True}
_SAID = "[...document.querySelectorAll('.answer p')].map(said => said.textContent)"
_IS_FREE = "document.getElementById('stop').hidden"


@pytest.fixture
def page(server: Running, tmp_path: Path) -> Iterator[Page]:
    with open_page(tmp_path) as opened:
        opened.open(server.url)
        opened.wait_for("document.getElementById('model').value", "the models")
        set_tokens(opened, 12)
        yield opened


def set_tokens(page: Page, count: int) -> None:
    page.evaluate(f"document.getElementById('tokens').value = {count}")


def write(page: Page, text: str) -> None:
    page.evaluate("document.getElementById('text').focus()")
    page.call("Input.insertText", text=text)


def enter(page: Page) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r")


def ask(page: Page, text: str) -> str:
    write(page, text)
    enter(page)
    page.wait_for(_IS_FREE, "the answer's end")
    return str(answers(page)[-1])


def answers(page: Page) -> list[Any]:
    return list(page.evaluate(_SAID))


def show(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        picture = page.call("Page.captureScreenshot", format="png")
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


def test_a_message_that_is_refused_costs_the_next_one_nothing(page: Page) -> None:
    refused = ask(page, "a b " * 15_000)
    assert "context" in refused
    assert page.evaluate("document.querySelectorAll('.failed').length") == 1
    assert "context" not in ask(page, "the cat")
    last = "[...document.querySelectorAll('.told')].at(-1).getBoundingClientRect().bottom"
    assert page.evaluate(f"{last} <= document.getElementById('form').getBoundingClientRect().top")
    assert page.evaluate("document.querySelectorAll('.failed').length") == 1
    show(page, "refused")


def test_enter_during_an_answer_stops_nothing_and_the_button_does(page: Page) -> None:
    set_tokens(page, 3000)
    write(page, "the cat")
    enter(page)
    page.wait_for("!document.getElementById('stop').hidden", "an answer")
    write(page, "and then?")
    enter(page)
    assert page.evaluate("document.getElementById('text').value") == "and then?"
    assert not page.evaluate(_IS_FREE)
    page.press("Stop")
    page.wait_for(_IS_FREE, "the end")
    page.wait_for_text("stopped")


def test_the_likeliest_answer_is_given_as_by_chat_and_again_on_retry(
    page: Page, server: Running
) -> None:
    model = page.evaluate("document.getElementById('model').value")
    body = {"prompt": "the dog", "model": model, "generate_kwargs": {"max_new_tokens": 12}}
    said = ask(page, "the dog")
    assert said == server.client.post("/chat", json=body).json()["Result"]
    page.press("Retry")
    page.wait_for(_IS_FREE, "the answer's end")
    assert answers(page) == [said]


def test_two_models_answer_side_by_side_with_their_speed(page: Page) -> None:
    page.evaluate("document.getElementById('model').value = 'toy'")
    page.evaluate("document.getElementById('other').value = 'first'")
    ask(page, "the mat")
    assert len(set(answers(page))) == 2
    told = page.evaluate("[...document.querySelectorAll('.told')].map(one => one.textContent)")
    assert [one.split(":")[0] for one in told] == ["toy", "first"]
    assert all("tokens/s" in one and "ended by length" in one for one in told)
    lefts = "[...document.querySelectorAll('.answer')].map(one => one.getBoundingClientRect().left)"
    assert len(set(page.evaluate(lefts))) == 2
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        show(page, scheme)


def test_on_a_phone_nothing_is_cut_off(page: Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", **PHONE)
    page.evaluate("document.getElementById('other').value = 'toy'")
    ask(page, "the-cat-" * 40)
    show(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = "[...document.querySelectorAll('button, select, input, textarea')]"
    shown = f"{boxes}.filter(one => one.offsetParent).map(one => one.getBoundingClientRect())"
    inside = "box => box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight"
    assert page.evaluate(f"{shown}.every({inside})")


def test_a_question_can_be_asked_again_by_curl_and_python(page: Page) -> None:
    ask(page, 'it\'s "quoted"')
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    page.press("Copy as curl")
    page.wait_for("window.copied", "the copy")
    assert r"it'\''s \"quoted\"" in page.evaluate("window.copied")
    page.press("Copy as Python")
    page.wait_for("window.copied.startsWith('from openai')", "the copy")
    compile(str(page.evaluate("window.copied")), "copied", "exec")
