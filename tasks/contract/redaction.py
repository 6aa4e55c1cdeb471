"""Text that others wrote, made fit to be shown: no secret of a URL, no character that acts.

Passwords and signatures travel inside URLs, and libraries log URLs whole; a server's words may hold
newlines and terminal escapes. Both worlds log through here.
"""

import logging
import re
from typing import Any

_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#\"'\\<>]+@")
# Of a query: `sig` (Azure), `X-Amz-*`, `X-Goog-*`, `Signature`, `Policy` (CDNs), tokens and keys.
# An & may be written as kubectl does in its JSON.
_QUERY = re.compile(
    r"(?i)((?:[?&;]|\\u0026)(?:[^=&;\s\"'\\]*"
    r"(?:sig|token|key|pass|pwd|secret|cred|auth|hmac|policy|code)"
    r"[^=&;\s\"'\\]*|x-(?:amz|goog|ms)-[^=&;\s\"'\\]*)=)[^&;\s\"'\\<>#]+"
)
_HEADER = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[^\s\"'\\,;]+")
_ACTING = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# These tell each request with its whole URL, at the level at which a program logs.
_TALKATIVE = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "urllib3")


def redacted(text: str) -> str:
    """The text with `***` for each password, signature and token that a URL in it carries."""
    text = _USER.sub(r"\1***@", text)
    return _HEADER.sub(r"\1***", _QUERY.sub(r"\1***", text))


def one_line(text: str) -> str:
    r"""The text with `\n`, `\x1b` and the like written out: to show it does nothing else."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless(text: str) -> str:
    """The text with its line breaks, and without anything else that a terminal acts on."""
    return "\n".join(one_line(line) for line in text.split("\n"))


class RedactedRecord(logging.LogRecord):
    """A log record that keeps secrets to itself, whichever handler or formatter asks it."""

    def getMessage(self) -> str:  # noqa: N802  (logging's own name)
        """The message, redacted."""
        return redacted(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The formatted trace, redacted; formatters leave it here for one another."""
        return self.__dict__.get("exc_text")

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self.__dict__["exc_text"] = text and redacted(text)


class OneLineFormatter(logging.Formatter):
    """Lines that nobody's text can begin: a message is one line, those of its trace are indented.

    A program's events are lines too; what it logs must not be taken for one.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's own name)
        """The message's line."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's own name)
        """The trace, each of its lines indented."""
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(ei).splitlines())


def keep_secrets_out_of_logs() -> None:
    """Have every log record of this process redacted; call it at a program's entry point.

    By the records and not by a filter on handlers: libraries make handlers of their own, later.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.setLogRecordFactory(RedactedRecord)
