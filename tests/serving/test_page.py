"""The page at / in a real browser.

Pictures of what was seen stay in build/screenshots.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page, open_page
from tests.serving.running import Running

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
PHONE = {"width": 390, "height": 740, "deviceScaleFactor": 2, "mobile": True}
_SAID = "[...document.querySelectorAll('.said')].map(said => said.textContent)"
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


def strike(page: Page, key: str, **how: Any) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **how)


def enter(page: Page) -> None:
    strike(page, "Enter", text="\r")


def ask(page: Page, text: str) -> str:
    write(page, text)
    enter(page)
    page.wait_for(_IS_FREE, "the answer's end")
    return str(answers(page)[-1])


def answers(page: Page) -> list[Any]:
    return list(page.evaluate(_SAID))


def say(page: Page, text: str) -> None:
    """Have the model say this, whatever it is asked."""
    told = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    stream = f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n"
    page.evaluate(f"window.fetch = async () => new Response({json.dumps(stream)})")


def color(page: Page, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)


def titles(page: Page) -> list[Any]:
    opens = "[...document.querySelectorAll('#conversations button:first-child')]"
    return list(page.evaluate(f"{opens}.map(one => one.textContent)"))


def show(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    picture = page.call("Page.captureScreenshot", format="png")
    (SCREENSHOTS / f"chat-{name}.png").write_bytes(base64.b64decode(picture["data"]))


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
    assert (
        page.evaluate("conversation.turns[0].answers[0].text")
        == server.client.post("/chat", json=body).json()["Result"]
    )
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
        color(page, scheme)
        show(page, f"two-{scheme}")


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


WRITTEN = """`len` gives the number of **items**:

1. of a list,
   - not of what is *nested*
2. of a string.

```python
assert len(["a", "b"]) == 2
```

See [the manual](https://docs.python.org/3/library/functions.html#len)."""

CONTRASTS = """
(() => {
  const channels = said => said.match(/[\\d.]+/g).map(Number);
  const light = said => channels(said).slice(0, 3).map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = node => {
    const said = getComputedStyle(node).backgroundColor;
    return (channels(said)[3] ?? 1) > 0 ? said : behind(node.parentElement);
  };
  const says = node => [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim());
  return [...document.body.querySelectorAll('*')]
    .filter(node => says(node) && node.offsetParent)
    .map(node => {
      const [less, more] = [getComputedStyle(node).color, behind(node)].map(light)
        .sort((one, other) => one - other);
      return [(more + 0.05) / (less + 0.05), node.textContent.trim()];
    });
})()
"""


def test_a_system_prompt_and_settings_are_sent_and_the_seed_is_told(page: Page) -> None:
    page.evaluate("document.getElementById('settings').open = true")
    page.evaluate("document.getElementById('system').focus()")
    page.call("Input.insertText", text="Be brief.")
    for field, value in {"temperature": 0.5, "top_p": 0.9, "seed": 7}.items():
        page.evaluate(f"document.getElementById('{field}').value = {value}")
    ask(page, "the cat")
    sent = json.loads(page.evaluate("lastBody()"))
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    assert sent["messages"][0]["content"] == "Be brief."
    assert (sent["temperature"], sent["top_p"], sent["seed"]) == (0.5, 0.9, 7)
    assert page.evaluate("document.querySelector('.told').textContent").endswith(", seed 7")


def test_a_conversation_outlives_a_reload_until_it_is_deleted(page: Page) -> None:
    said = [ask(page, "the cat"), ask(page, "the dog")]
    page.call("Page.reload")
    page.wait_for("document.querySelectorAll('.said').length === 2", "the conversation")
    assert answers(page) == said
    page.press("New chat")
    assert answers(page) == []
    assert titles(page) == ["the cat"]
    page.press("the cat")
    assert answers(page) == said
    page.evaluate("document.querySelector('[aria-label=\"Delete the cat\"]').click()")
    assert (titles(page), answers(page)) == ([], [])
    assert page.evaluate("localStorage.length") == 0


def test_what_a_model_writes_becomes_no_markup_of_its_own(page: Page) -> None:
    hostile = (
        "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'> [x](javascript:hit)"
        " [y](data:text/html,hit) **<b>b</b>**\n\n```html\n<iframe>\n```\n" + "- " * 3000 + "end"
    )
    say(page, hostile)
    ask(page, "the cat")
    assert page.evaluate("window.hit") is None
    found = "document.querySelectorAll('.said :is(script, img, iframe, b, a)').length"
    assert page.evaluate(found) == 0
    said = str(answers(page)[0])
    assert "<script>window.hit = 1</script>" in said
    assert "[x](javascript:hit)" in said
    assert "<iframe>" in said


def test_markdown_is_laid_out_and_can_be_read_in_light_dark_and_on_a_phone(page: Page) -> None:
    say(page, WRITTEN)
    ask(page, "What does len do?")
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    page.press("Copy")
    assert page.evaluate("window.copied") == 'assert len(["a", "b"]) == 2'
    assert page.evaluate("document.querySelectorAll('.said ol > li').length") == 2
    assert page.evaluate("document.querySelector('.said li li em').textContent") == "nested"
    assert "noopener" in page.evaluate("document.querySelector('.said a').rel")
    page.evaluate("window.fetch = async () => { throw new Error('nothing answers'); }")
    ask(page, "And of a set?")
    page.evaluate("document.getElementById('settings').open = true")
    for scheme in ("light", "dark"):
        color(page, scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        assert [said for contrast, said in contrasts if contrast < 4.5] == []
        show(page, scheme)
    page.evaluate("document.getElementById('settings').open = false")
    page.call("Emulation.setDeviceMetricsOverride", **PHONE)
    page.press("Conversations")
    show(page, "phone-conversations")
    page.press("What does len do?")
    assert page.evaluate("document.getElementById('kept').offsetParent") is None
    show(page, "phone-markdown")


def test_keys_alone_do_all_and_an_answer_is_heard_once(page: Page) -> None:
    set_tokens(page, 3000)
    write(page, "the cat")
    enter(page)
    page.wait_for("!document.getElementById('stop').hidden", "an answer")
    assert page.evaluate("document.getElementById('turns').ariaBusy") == "true"
    assert page.evaluate("document.getElementById('heard').textContent") == ""
    strike(page, "Escape", windowsVirtualKeyCode=27)
    page.wait_for(_IS_FREE, "the end")
    assert page.evaluate("document.getElementById('turns').ariaBusy") == "false"
    assert page.evaluate("document.getElementById('heard').textContent") != ""
    assert page.evaluate("document.querySelectorAll('[aria-live], [role=log]').length") == 0
    reached = []
    for _ in range(4):
        strike(page, "Tab", windowsVirtualKeyCode=9)
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["send", "retry", "curl", "python"]


def test_a_browser_lets_the_page_load_and_ask_nothing_elsewhere(server: Running) -> None:
    policy = server.client.get("/").headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} < {*policy}
    assert not [rule for rule in policy if "unsafe" in rule or "http" in rule]
