"""Secrets of URLs are masked, characters that act are written out, and nothing else is changed."""

import io
import logging

import pytest

from tasks.contract.redaction import OneLineFormatter, RedactedRecord, harmless, one_line, redacted
from tasks.contract.status import ConditionType, FinishedStep, Progress, WorkspaceStatus


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://bob:hunter2@host/x", "https://***@host/x"),
        ("ftp://token@host", "ftp://***@host"),
        ("http://u:p@ss@host/a@b", "http://***@host/a@b"),
        ("https://a/?sv=2024&sig=ab%2Bc&se=1", "https://a/?sv=2024&sig=***&se=1"),
        (
            "https://a/?X-Amz-Credential=k&X-Amz-Date=d",
            "https://a/?X-Amz-Credential=***&X-Amz-Date=***",
        ),
        ("https://a/?X-Goog-Signature=k&x=1", "https://a/?X-Goog-Signature=***&x=1"),
        (
            "https://a/?Signature=k&Key-Pair-Id=i&Policy=p",
            "https://a/?Signature=***&Key-Pair-Id=***&Policy=***",
        ),
        ("https://a/?access_token=k#f", "https://a/?access_token=***#f"),
        (
            r'{"urls":["https://a/?sv=1\u0026sig=k\u0026se=1"]}',
            r'{"urls":["https://a/?sv=1\u0026sig=***\u0026se=1"]}',
        ),
        ("GET 'https://a/?api_key=k' failed", "GET 'https://a/?api_key=***' failed"),
        ('{"url": "https://u:p@a/?token=k"}', '{"url": "https://***@a/?token=***"}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dTpw'}", "{'authorization': 'Basic ***'}"),
        ("https://host/x?a=1&b=2 to me@example.com", "https://host/x?a=1&b=2 to me@example.com"),
        ("image me.io/phi:v1@sha256:0 loss=1.5", "image me.io/phi:v1@sha256:0 loss=1.5"),
    ],
)
def test_secrets_and_only_they_are_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_characters_that_act_are_written_out() -> None:
    assert one_line("a\nb\r\x1b[31m\u202e\x9b\ud800") == "a\\nb\\r\\x1b[31m\\u202e\\x9b\\ud800"
    assert one_line("Grüße\t日本") == "Grüße\t日本"


def test_line_breaks_can_be_kept() -> None:
    assert harmless("a\nb\r\n\x1b]0;title\x07") == "a\nb\\r\n\\x1b]0;title\\x07"


def test_a_status_holds_nothing_that_a_terminal_acts_on() -> None:
    status = WorkspaceStatus(steps=[FinishedStep(name="n", seconds=1, detail="a\x1b[2J")])
    status.set_condition(ConditionType.ACCEPTED, status="False", reason="R", message="b\nb\x1b[2J")
    status.progress = Progress(step_name="tune").model_copy(update={"phase": "c\x1b[2J"})
    shown = f"{status.steps[0].detail} {status.conditions[0].message} {status.progress}"
    assert shown == "a\\x1b[2J b\nb\\x1b[2J tune c\\x1b[2J"


def test_every_line_of_a_trace_is_indented_and_redacted() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLineFormatter("%(message)s"))
    error = ValueError('a\n{"event": "result"}\nhttps://u:canary@h')
    trace = (ValueError, error, None)
    handler.handle(RedactedRecord("n", logging.ERROR, "p", 1, "%s", ("b\n{}",), trace))
    first, *rest = stream.getvalue().splitlines()
    assert first == "b\\n{}"
    assert all(line.startswith("  ") for line in rest)
    assert '  {"event": "result"}' in rest
    assert "canary" not in stream.getvalue()
