"""An event is kept as it was told, and does nothing to who reads it."""

from tasks.contract.recorded_event import RecordedEvent


def test_an_event_is_no_warning_and_has_come_once_unless_it_says_so() -> None:
    event = RecordedEvent(at="2026-01-01T00:00:00Z", reason="NodeLost", message="m")
    assert (event.is_warning, event.count) == (False, 1)


def test_a_message_s_line_breaks_stay_and_nothing_else_of_it_acts_on_a_terminal() -> None:
    event = RecordedEvent(at="2026-01-01T00:00:00Z", reason="R", message="a\n\x1b[2Jb")
    assert event.message == "a\n\\x1b[2Jb"
