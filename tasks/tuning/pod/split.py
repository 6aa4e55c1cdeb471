"""Which rows are learned from and which are held out: decided by what a row asks, not by its place.

Rows with one question are on one side. The side is read off a hash of question and seed, so a row
keeps it whatever is added, removed or moved: what was held out once is never trained on later, if
the share that was held out is given on. What is held out and resembles a row that is trained on is
not measured. Rows that a user has set aside are measured all the same: there it is the row to train
on that has to go.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Any

from tasks.contract.training_config import DatasetSettings

Row = dict[str, Any]

# Fewer are all trained on, unless the user says otherwise: one of them would say nothing.
_FEWEST_ROWS = 10
# A tenth of much data is more than a comparison needs, and all that is not learned from.
_SHARE, _SHARE_OF_MANY, _MANY_ROWS = 0.1, 0.02, 5000
# By chance, or with questions that many rows ask, there may be more than the share.
_MOST_OF_SHARE = 2
# That are looked at one by one, and may be measured.
MOST_MEASURED = 1024
# Of the measured row's own runs of words, in one row that is trained on.
_RESEMBLING = 0.8
_RUN_WORDS = 3
# What as many rows share is the data's form; no row is known by it.
_COMMON_SHARE, _COMMON_ROWS = 0.1, 10
# Scripts without spaces between words are read letter by letter.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Places of the rows: those to train on, and those to measure, which come in one order always.

    held_out: rows that are not trained on. resembling: of them, those that are not measured, since
        a row that is trained on is nearly the same.
    left_out: rows that are neither, for the sake of those that a user has set aside.
    share: of the questions that are held out, all but for what chance does to a few.
    missing: why no row is measured; "" = some are, or the user wants none.
    """

    trained: list[int]
    measured: list[int]
    held_out: int
    resembling: int
    share: float
    left_out: int = 0
    missing: str = ""


def split_rows(
    rows: Sequence[Row], settings: DatasetSettings, *, share_before: float | None = None
) -> Split:
    """The rows' sides. One in ten questions is held out (one in fifty of 5,000 rows and more).

    Of ten rows and more at least one is, of fewer none; or what train_test_split leaves, about.
    Args: share_before: that was held out so far, and is whatever the rows are now; None or 0 = none
    was.
    """
    share = _share(len(rows), settings.train_test_split, share_before)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[_question(row)].append(place)
    held_out = _held_out(groups, share=share, rows=len(rows), seed=settings.shuffle_seed)
    out = set(held_out)
    trained = [place for place in range(len(rows)) if place not in out]
    looked_at = held_out[:MOST_MEASURED]
    known = {place for place, _ in _twins(rows, looked_at, trained)}
    measured = [place for place in looked_at if place not in known]
    return Split(
        trained=_in_order(trained, settings),
        measured=measured,
        held_out=len(held_out),
        resembling=len(known),
        share=share,
        missing="" if measured else _why_none(len(rows), settings, held_out=len(held_out)),
    )


def split_beside(rows: Sequence[Row], aside: Sequence[Row], settings: DatasetSettings) -> Split:
    """The sides of rows and, with places behind theirs, of those that a user has set aside.

    All that are set aside are held out. Of the rows none is, and those that ask the same as one of
    these, or are nearly the same as one that may be measured, are left out.
    """
    questions = {_question(row) for row in aside}
    other = [place for place, row in enumerate(rows) if _question(row) not in questions]
    together, places = [*rows, *aside], range(len(rows), len(rows) + len(aside))
    # By their hashes, as rows are that are held out here: the first ones are to be of all kinds.
    ordered = sorted(
        places, key=lambda place: _height(_question(together[place]), settings.shuffle_seed)
    )
    measured = ordered[:MOST_MEASURED]
    known = {place for _, place in _twins(together, measured, other)}
    trained = [place for place in other if place not in known]
    return Split(
        trained=_in_order(trained, settings),
        measured=measured,
        held_out=len(aside),
        resembling=0,
        share=0.0,
        left_out=len(rows) - len(trained),
    )


def _in_order(trained: list[int], settings: DatasetSettings) -> list[int]:
    """The places to train on in the order in which that is done."""
    if settings.shuffle_dataset:
        Random(settings.shuffle_seed).shuffle(trained)
    return trained


def _share(rows: int, train_test_split: float | None, before: float | None) -> float:
    if train_test_split is not None:
        return 1 - train_test_split
    if before:
        return before
    if rows < _FEWEST_ROWS:
        return 0.0
    return _SHARE if rows < _MANY_ROWS else _SHARE_OF_MANY


def _held_out(groups: dict[str, list[int]], *, share: float, rows: int, seed: int) -> list[int]:
    """Places, those of the smallest hash first."""
    if not share or rows < 2:
        return []
    most = min(rows - 1, ceil(_MOST_OF_SHARE * share * rows))
    held_out: list[int] = []
    for height, question in sorted((_height(question, seed), question) for question in groups):
        if height >= share and held_out:
            break
        if len(held_out) + len(groups[question]) <= most:
            held_out += groups[question]
    return held_out


def held_out_as_well(
    rows: Sequence[Row], places: Sequence[int], *, seed: int, share: float
) -> list[int]:
    """Those of the places whose questions another seed and share hold out, too."""
    return [place for place in places if _height(_question(rows[place]), seed) < share]


def _height(question: str, seed: int) -> float:
    """A number from 0 to 1 that belongs to the question."""
    digest = hashlib.blake2b(f"{seed}\n{question}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _question(row: Row) -> str:
    """What the row asks first, as it is the same however it is spelled; else all that it says."""
    if row.get("prompt"):
        return _plain(str(row["prompt"]))
    asked = (one["content"] for one in row.get("messages", ()) if one["role"] == "user")
    return _plain(str(next(asked, None) or _text(row)))


def _plain(text: str) -> str:
    return " ".join(_words(text)) or text


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _text(row: Row) -> str:
    said = [str(message["content"] or "") for message in row.get("messages", ())]
    plain = [str(row[name]) for name in ("prompt", "completion", "text") if name in row]
    return "\n".join(said + plain)


def _runs(row: Row) -> set[tuple[str, ...]]:
    """Every three words that follow each other; all words of a shorter text."""
    words = _words(_text(row))
    runs = zip(*(words[start:] for start in range(_RUN_WORDS)), strict=False)
    return set(runs) or {tuple(words)}


def _twins(
    rows: Sequence[Row], measured: Sequence[int], trained: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Places of measured rows most of whose own words stand in one that is trained on; of both."""
    runs = {place: _runs(rows[place]) for place in measured}
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, one in runs.items():
        for run in one:
            holders[run].append(place)
    shared = [_runs(rows[place]) & holders.keys() for place in trained]
    counts = Counter(run for one in shared for run in one)
    limit = max(_COMMON_ROWS, _COMMON_SHARE * len(trained))
    common = {run for run, count in counts.items() if count > limit}
    own = {place: len(one - common) for place, one in runs.items()}
    for learned, one in zip(trained, shared, strict=True):
        for place, count in Counter(_places(one - common, holders)).items():
            if count >= _RESEMBLING * own[place]:
                yield place, learned


def _places(runs: set[tuple[str, ...]], holders: dict[tuple[str, ...], list[int]]) -> Iterator[int]:
    for run in runs:
        yield from holders[run]


def _why_none(rows: int, settings: DatasetSettings, *, held_out: int) -> str:
    if held_out:
        return f"each of the {held_out} rows held out is nearly the same as one trained on"
    if settings.train_test_split is not None:
        return ""
    if rows < _FEWEST_ROWS:
        return f"of fewer than {_FEWEST_ROWS} rows none is held out"
    return "no question is asked by so few rows that it could be held out"
