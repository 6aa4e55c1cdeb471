"""JSON of any size, one value at a time, with no more than one value in memory."""

import json
from collections.abc import Iterator
from typing import TextIO

CHUNK_CHARS = 64 * 1024
MAX_VALUE_CHARS = 64 * 2**20

_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


class Truncated(ValueError):
    """The text ends inside a value."""


class JsonCursor:
    """A place in a JSON text, from which values are taken one after the other."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, characters: str) -> str:
        """The next character, which must be one of these.

        Raises: ValueError, Truncated.
        """
        found = self.peek()
        if not found:
            raise Truncated("the text ends too early")
        if found not in characters:
            raise ValueError(f"{found!r} stands where {' or '.join(characters)} should")
        self._at += 1
        return found

    def value(self) -> object:
        """The next value, whole.

        Raises: ValueError: no JSON, or too large a value. Truncated.
        """
        if not self.peek():
            raise Truncated("the text ends too early")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except RecursionError:
                raise ValueError("the value is nested too deeply") from None
            except ValueError as error:
                # More text may mend it, and costs little: the amount read doubles each time.
                if self._too_long() or not self._more():
                    raise self._explained(error) from None
                continue
            if end == len(self._buffer) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def items(self) -> Iterator[object]:
        """The items of the array that comes next, as they are read."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def _more(self) -> bool:
        if self._ended:
            return False
        pending = self._buffer[self._at :]
        piece = self._text.read(max(CHUNK_CHARS, len(pending)))
        self._buffer, self._at = pending + piece, 0
        self._ended = not piece
        return bool(piece)

    def _too_long(self) -> bool:
        return len(self._buffer) - self._at > MAX_VALUE_CHARS

    def _explained(self, error: ValueError) -> ValueError:
        if self._ended and isinstance(error, json.JSONDecodeError) and self._at_the_end(error):
            return Truncated("the text ends inside a value")
        if isinstance(error, json.JSONDecodeError):
            return ValueError(error.msg)
        # Python's own words name a setting that nobody here can reach.
        return ValueError("a number has too many digits")

    def _at_the_end(self, error: json.JSONDecodeError) -> bool:
        return error.pos >= len(self._buffer.rstrip()) or error.msg.startswith("Unterminated")
