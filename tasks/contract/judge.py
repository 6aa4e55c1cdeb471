"""The model that judges written answers where the gate's metric asks for one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.gate import GATE_ANNOTATION, Metric, parse_gate

JUDGE_ANNOTATION = "kaitoflow.io/judge"
_FIX = 'write its URL and the model, as "https://judge.example.com/v1 MODEL"'


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model behind an OpenAI URL; url: up to what `/chat/completions` follows."""

    url: str
    model: str

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"


def judge_of(annotations: Mapping[str, str]) -> Judge | None:
    """The judge that the gate of a Workspace with these annotations asks; None = it asks none.

    Raises: InvalidWorkspace.
    """
    gate = parse_gate(annotations.get(GATE_ANNOTATION))
    if gate.metric is not Metric.JUDGE:
        return None
    text = annotations.get(JUDGE_ANNOTATION)
    if text is None:
        raise InvalidWorkspace(
            f"annotation {GATE_ANNOTATION} is {annotations[GATE_ANNOTATION]!r}",
            "nobody says which model judges",
            f"annotate {JUDGE_ANNOTATION}: {_FIX}",
        )
    return parse_judge(text)


def parse_judge(text: str) -> Judge:
    """The judge that the annotation's text names.

    Raises: InvalidWorkspace.
    """
    words = text.split()
    if len(words) != 2:
        raise _wrong(text, f"it has {len(words)} words, not two")
    url, model = words
    try:
        parts = urlsplit(url)
        _ = parts.port  # read only when it is asked for
    except ValueError:
        raise _wrong("...", "its URL cannot be read") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        # Whatever it is, it may be secret: an annotation is read by many.
        raise _wrong("...", "its URL has a password, a query or a fragment in it")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong(text, "its URL is none of http or https")
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return Judge(url=base, model=model)


def judge_key_secret(name: str) -> str:
    """The Secret with the judge's key, by the Workspace's name; there may be none."""
    return f"{name}-judge-key"


def _wrong(text: str, found: str) -> InvalidWorkspace:
    return InvalidWorkspace(f"annotation {JUDGE_ANNOTATION} is {text!r}", found, _FIX)
