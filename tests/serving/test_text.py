"""Text out of tokens, as it comes."""

from hypothesis import given
from hypothesis import strategies as st

from serving.tokens.text import TextStream


def decode(ids: list[int]) -> str:
    """Bytes as tokens."""
    return bytes(ids).decode(errors="replace")


def pieces_of(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(decode, stop=stop)
    pieces: list[str] = []
    for token in text.encode():
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


@given(st.text())
def test_the_pieces_together_are_the_text(text: str) -> None:
    assert "".join(pieces_of(text)[0]) == text


@given(st.text(alphabet="ab£", max_size=30), st.text(alphabet="ab£", min_size=1, max_size=3))
def test_nothing_of_a_stop_text_or_after_it_is_shown(text: str, stop: str) -> None:
    pieces, stopped = pieces_of(text, (stop,))
    assert "".join(pieces) == text.split(stop, maxsplit=1)[0]
    assert stopped == (stop in text)


def test_half_a_character_is_held_back() -> None:
    stream = TextStream(decode)
    assert [stream.add(byte) for byte in "€".encode()] == ["", "", "€"]


def test_the_first_of_several_stop_texts_counts() -> None:
    assert "".join(pieces_of("one two three", ("three", "two"))[0]) == "one "


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    stream = TextStream(decode)
    assert stream.add(0xE2) == ""
    assert stream.finish() == "\ufffd"


def test_what_only_looks_like_a_stop_text_is_shown_at_the_end() -> None:
    assert "".join(pieces_of("ta", ("tail",))[0]) == "ta"
