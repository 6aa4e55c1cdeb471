"""A real browser, as a person uses it: Debian's Chromium, headless, by its DevTools protocol.

Run as `python -m tests.browser`: installs it where it is missing and this is root on Debian.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect
from websockets.sync.connection import Connection

_WAIT_S = 60.0
_WIDTH, _HEIGHT = 1280, 900
# Of what a person sees: labels of fields by their text, without the "(Optional)" behind it.
_FIND = """
(function(kind, text) {
  const said = e => (e.innerText || e.value || '').trim().replace(/ \\(Optional\\)$/, '');
  const shown = e => e.offsetParent !== null;
  if (kind === 'field') {
    const hint = document.querySelector(`input[placeholder=${JSON.stringify(text)}]`);
    if (hint) return hint;
    const label = [...document.querySelectorAll('label')].find(e => said(e) === text);
    return label && document.getElementById(label.htmlFor);
  }
  return [...document.querySelectorAll(kind)].filter(shown).find(e => said(e).startsWith(text));
})
"""
# The middle of an element, if a click there is one on it: a note may lie above it for a while.
_FREE_MIDDLE = """
(function(element) {
  if (!element) return null;
  const box = element.getBoundingClientRect();
  const middle = [box.x + box.width / 2, box.y + box.height / 2];
  return element.contains(document.elementFromPoint(...middle)) ? middle : null;
})
"""


def install_missing() -> None:
    """Install Chromium where it is missing.

    Raises: RuntimeError: this is not root, or no Debian, or apt-get fails.
    """
    if shutil.which("chromium"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError("this is not root on Debian")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        asked = ["apt-get", "-qq", *command]
        answer = subprocess.run(asked, env=environment, check=False, capture_output=True, text=True)
        if answer.returncode != 0:
            raise RuntimeError(answer.stderr.strip()[-300:])


@contextlib.contextmanager
def open_page(folder: Path) -> Iterator["Page"]:
    """An empty page of a browser that knows nothing of any other, kept in a folder."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium")
    profile = folder / "profile"
    options = (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"),
        *("--hide-scrollbars", f"--window-size={_WIDTH},{_HEIGHT}"),
    )
    with (folder / "chromium.log").open("wb") as log:
        browser = subprocess.Popen([program, *options, "about:blank"], stdout=log, stderr=log)
    try:
        port = _debugging_port(profile / "DevToolsActivePort")
        pages = httpx2.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        with connect(address, max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        browser.terminate()
        browser.wait(30)


def _debugging_port(file: Path) -> int:
    deadline = time.monotonic() + _WAIT_S
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])


class Page:
    """One page: what a person does on it, and sees."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The browser's answer to one command of its protocol."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._connection.recv(_WAIT_S))
            if said.get("id") == number:
                assert "error" not in said, said
                answer: dict[str, Any] = said["result"]
                return answer

    def evaluate(self, expression: str) -> Any:
        """What an expression of the page's script is."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, what: str) -> Any:
        """The expression's value, once it has one that counts."""
        deadline = time.monotonic() + _WAIT_S
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"waited for {what}; the page says: {self.text}"
            time.sleep(0.1)
        return found

    @property
    def text(self) -> str:
        """All that can be read on the page."""
        return str(self.evaluate("document.body.innerText"))

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'", url)

    def wait_for_text(self, text: str) -> None:
        """Return when the page says it."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", text)

    def fill(self, label: str, text: str) -> None:
        """Type a text into the field with this label or hint, in the place of what is there."""
        field = self._there("field", label)
        self.evaluate(f"{field}.focus(); {field}.select()")
        self.call("Input.insertText", text=text)

    def choose(self, label: str, choice: str) -> None:
        """Open the field's list, and take the choice that begins so."""
        self._click("field", label)
        self._click("[role=option]", choice)

    def press(self, button: str) -> None:
        """Press the button that says so."""
        self._click("button", button)

    def choose_from_menu(self, item: str) -> None:
        """Open the page's menu, and take the item that says so."""
        self.press("Open menu")
        self._click("[role=menuitem]", item)

    def follow(self, link: str) -> None:
        """Follow the link that says so."""
        self._click("a", link)

    def screenshot(self, file: Path, *, height: int = _HEIGHT) -> None:
        """A picture of the page from its top, so many points high."""
        metrics = {"width": _WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        time.sleep(1)  # what slides in has come to rest
        picture = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))
        self.call("Emulation.clearDeviceMetricsOverride")

    def _there(self, kind: str, text: str) -> str:
        """The expression that finds an element, once there is one."""
        found = f"{_FIND}({json.dumps(kind)}, {json.dumps(text)})"
        self.wait_for(f"!!{found}", f"{kind} {text!r}")
        return found

    def _click(self, kind: str, text: str) -> None:
        """Click in the middle of it, once it rests there and nothing lies above it."""
        found = self._there(kind, text)
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        time.sleep(0.3)
        x, y = self.wait_for(f"{_FREE_MIDDLE}({found})", f"{kind} {text!r} to be free")
        for happens in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=happens, x=x, y=y, button="left", clickCount=1
            )


if __name__ == "__main__":
    try:
        install_missing()
    except RuntimeError as error:
        said = f"the tests of pages will be skipped: there is no Chromium, and {error}"
        sys.stderr.write(f"{said}; install it as `chromium`\n")
