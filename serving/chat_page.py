"""The page at /: one file, which a browser lets ask its own server and nothing else."""

import base64
import hashlib
import re
from importlib import resources

from fastapi.responses import HTMLResponse


def chat_page() -> HTMLResponse:
    """The page, with a policy under which a browser runs the page's own script and no other."""
    text = resources.files("serving").joinpath("chat.html").read_text()
    return HTMLResponse(text, headers={"Content-Security-Policy": _policy(text)})


def _policy(text: str) -> str:
    rules = {
        "default-src": "'none'",
        "script-src": _hash(text, "script"),
        "style-src": _hash(text, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",  # text of a model can become no markup
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str, element: str) -> str:
    found = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    assert found
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
