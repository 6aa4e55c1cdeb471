"""The text of a continuation while its tokens come in."""

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character


class TextStream:
    """Turns tokens into text that can be shown at once, up to a stop text.

    Held back are characters of which bytes are missing, and what may be the start of a stop text.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        *,
        stop: Sequence[str] = (),
        shows_stop: bool = False,
        context: Sequence[int] = (),
    ) -> None:
        """Start behind some context tokens, because a first token may lose its leading space.

        Args: shows_stop: whether a stop text is shown that was found.
        """
        self.stopped = False
        self._decode = decode
        self._stop = stop
        self._shows_stop = shows_stop
        self._ids = list(context)
        self._shown_from, self._shown_to = 0, len(self._ids)
        self._held = ""

    def add(self, token_id: int) -> str:
        """The text that this token makes sure of, often none."""
        self._ids.append(token_id)
        fresh = self._fresh()
        if fresh.endswith(_UNFINISHED):
            return ""
        return self._release(fresh)

    def finish(self) -> str:
        """What was held back; nothing once a stop text was found."""
        if self.stopped:
            return ""
        text = self._release(self._fresh())
        held, self._held = self._held, ""  # a stop text has emptied it
        return text + held

    def _fresh(self) -> str:
        before = self._decode(self._ids[self._shown_from : self._shown_to])
        return self._decode(self._ids[self._shown_from :])[len(before) :]

    def _release(self, fresh: str) -> str:
        if not fresh:
            return ""
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        held = self._held + fresh
        ends = [(at, len(stop)) for stop in self._stop if (at := held.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            at, length = min(ends)
            return held[: at + length] if self._shows_stop else held[:at]
        keep = max((_overlap(held, stop) for stop in self._stop), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the text's end begin the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
