"""Two adapters of a Workspace side by side: how each did, and what was not the same. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Beside
from tasks.contract.data_marks import FileMark
from tasks.contract.errors import AdapterNotFound
from tasks.contract.units import duration


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that is told of both; empty = not known, or not set."""

    name: str
    before: str
    after: str

    @property
    def differs(self) -> bool:
        """Whether it is another one of each."""
        return self.before != self.after


@dataclass(frozen=True, kw_only=True)
class AdapterDiff:
    """All that can be told of two adapters.

    facts: how each did, and what became of it. settings: of both trainings, by name.
    data: what changed of the dataset, in words. measured: of one beside the other; empty = the gate
    has not seen these two.
    """

    before: AdapterRecord
    after: AdapterRecord
    facts: tuple[Row, ...]
    settings: tuple[Row, ...]
    data: tuple[str, ...]
    measured: str

    @property
    def other_settings(self) -> tuple[Row, ...]:
        """The settings that differ."""
        return tuple(row for row in self.settings if row.differs)


def choose(
    adapters: AdapterHistory, before: int | None = None, after: int | None = None
) -> tuple[AdapterRecord, AdapterRecord]:
    """The two adapters to be told of, by their numbers, or by what a person would ask.

    Of one number: that adapter beside what serves. Of none: what serves beside the candidate that
    waits for a word, else the one before beside what serves.

    Raises: AdapterNotFound: there are no such two.
    """
    if before is not None and after is not None:
        return _two(adapters.find(before), adapters.find(after))
    serving = adapters.serving
    if serving is None:
        raise AdapterNotFound(
            "an adapter was to be compared with the one that serves",
            "none serves",
            "name two by their numbers (kaitoflow history NAME)",
        )
    if before is not None:
        return _two(adapters.find(before), serving)
    if waiting := adapters.waiting:
        return serving, waiting
    others = [record for record in adapters.records if record is not serving]
    if not others:
        raise AdapterNotFound(
            "the adapter that serves was to be compared with another",
            f"there is adapter {serving.number} alone",
            "tune another first (kaitoflow retune NAME)",
        )
    return adapters.former or others[-1], serving


def _two(before: AdapterRecord, after: AdapterRecord) -> tuple[AdapterRecord, AdapterRecord]:
    if before.number == after.number:
        raise AdapterNotFound(
            f"adapter {before.number} was to be compared with another",
            "both are the same",
            "name another number, or none",
        )
    return before, after


def diff(before: AdapterRecord, after: AdapterRecord) -> AdapterDiff:
    """What two adapters have in common, and what not."""
    told = [_facts(record) for record in (before, after)]
    return AdapterDiff(
        before=before,
        after=after,
        facts=tuple(_rows(*told)),
        settings=tuple(_rows(before.making.settings, after.making.settings)),
        data=tuple(_of_data(before, after)),
        measured=_measured(before, after),
    )


def _rows(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Row]:
    for name in dict.fromkeys((*before, *after)):
        yield Row(name=name, before=before.get(name, ""), after=after.get(name, ""))


def _facts(record: AdapterRecord) -> dict[str, str]:
    held_out, making = record.held_out, record.making
    loss = gain = ""
    if held_out:
        loss = f"{held_out.loss_before:.3f} -> {held_out.loss_after:.3f} on {held_out.rows} answers"
        gain = f"{held_out.loss_before - held_out.loss_after:+.3f}"
        if held_out.gain_low is not None and held_out.gain_high is not None:
            gain += f" (95 % interval {held_out.gain_low:+.3f} to {held_out.gain_high:+.3f})"
    return {
        "fate": record.fate,
        "tuned": record.tuned,
        "generation": str(record.generation or ""),
        "held-out loss": loss,
        "gain over base": gain,
        "data": record.data.removeprefix("sha256:")[:12],
        "rows": "" if making.rows is None else str(making.rows),
        "tuned for": "" if making.seconds is None else duration(making.seconds),
        "cost": making.cost,
        "image": record.image.reference,
        "digest": record.image.digest.removeprefix("sha256:")[:12],
        "by": record.by,
        "decided": record.decided,
    }


def _of_data(before: AdapterRecord, after: AdapterRecord) -> Iterator[str]:
    if before.data and before.data == after.data:
        yield "the same bytes"
        return
    old, new = ({mark.name: mark for mark in r.making.files} for r in (before, after))
    if not (old and new):
        yield "which files have changed was not noted"
        return
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"{name} is gone"
        elif name not in old:
            yield f"{name} is new ({_bytes(new[name])})"
        elif old[name].digest != new[name].digest:
            yield f"{name} has other bytes ({_bytes(new[name])}, not {_bytes(old[name])})"


def _bytes(mark: FileMark) -> str:
    return f"{mark.bytes or 0:,} bytes"


def _measured(before: AdapterRecord, after: AdapterRecord) -> str:
    """What the gate has seen of the two, whichever was the candidate then."""
    for candidate, reference in ((after, before), (before, after)):
        if (seen := candidate.beside) and seen.number == reference.number:
            return _sentence(candidate.number, seen)
    return ""


def _sentence(number: int, seen: Beside) -> str:
    return f"adapter {number} beside adapter {seen.number}: {seen.comparison}"
