"""Whether the watch lives: it shows, sooner or later, what a list shows.

On a busy cluster some object is always a little newer in the list than in the watch. What counts is
an object that was behind at the look before too, and of which the watch has shown nothing since.
"""

import time
from collections.abc import Callable, Mapping


class Freshness:
    """What the watch has shown last of each object, compared with lists."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shown: dict[str, str] = {}
        self._behind: set[tuple[str, str]] = set()
        self._agreed_s = now()

    def show(self, uid: str, version: str) -> None:
        """The watch has shown an object."""
        self._shown[uid] = version

    def forget(self, uid: str) -> None:
        """An object is gone."""
        self._shown.pop(uid, None)

    def compare(self, listed: Mapping[str, str]) -> None:
        """Take in a list: each object's version by its uid."""
        behind = {
            (uid, self._shown.get(uid, ""))
            for uid, version in listed.items()
            if self._shown.get(uid) != version
        }
        if not behind & self._behind:
            self._agreed_s = self._now()
        self._behind = behind

    @property
    def age_s(self) -> float:
        """Return for how long the watch has not shown what a list shows."""
        return self._now() - self._agreed_s
