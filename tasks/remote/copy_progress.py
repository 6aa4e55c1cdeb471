"""How far a long copy is, as `progress` events."""

import time
from typing import BinaryIO

from tasks.contract.podlog import emit

_INTERVAL_S = 1.0


class Progress:
    """Counts bytes and says so at most once a second, and once when all are done.

    Events: {"phase": pack, push or download, "bytes": so far, "total": 0 = unknown}.
    """

    def __init__(self, phase: str, total_bytes: int) -> None:
        self._phase = phase
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._said_at_s = time.monotonic()

    def advance(self, count_bytes: int) -> None:
        """Count bytes that were just copied."""
        self._done_bytes += count_bytes
        now_s = time.monotonic()
        if self._done_bytes == self._total_bytes or now_s - self._said_at_s >= _INTERVAL_S:
            self._said_at_s = now_s
            emit(
                "progress",
                {"phase": self._phase, "bytes": self._done_bytes, "total": self._total_bytes},
            )


class CountedFile:
    """A file that is read once, from start to end, with its progress told."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """The next bytes, counted."""
        chunk = self._file.read(size)
        self._progress.advance(len(chunk))
        return chunk
