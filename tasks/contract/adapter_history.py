"""The adapters that a Workspace has had: from what each was tuned, how it did, why it serves. Pure.

Each has a number, by which people call it (`quickstart@3`), and an image of its own. All changes
can be made twice: a run that was killed and begins again leaves one line for each adapter.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.comparison import Comparison
from tasks.contract.data_marks import DataMarks, FileMark, compare
from tasks.contract.errors import AdapterNotFound
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.programs.tuning import HeldOut
from tasks.contract.redaction import harmless
from tasks.contract.units import utc_moment, utc_text

# More than any annotation asks for: a status has its bounds.
_KEPT_MAX = 50
# The number of the adapter whose image has the Workspace's own tag.
FIRST = 1
_FOUND = "its image was found when nothing was told any more of any adapter"


class Fate(StrEnum):
    """What became of an adapter."""

    SERVING = "serving"
    SERVED = "served"
    ON_TRIAL = "on trial"
    WAITING = "waiting"
    KEPT_OUT = "kept out"


class Outcome(StrEnum):
    """What a run that makes or moves an adapter came to, where it changed nothing."""

    RETUNING_FAILED = "retuning failed"
    PROMOTION_FAILED = "promotion failed"
    SKIPPED = "skipped"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Making(_Part):
    """How an adapter was made, as far as that was noted.

    run: id of the flow run that has made it.
    rows: of its dataset. files: of that; empty = not noted, as of a dataset of very many.
    settings: of its training, each by section and name, in the words of training_config.yaml.
    seconds: that its tuning took. price_usd: of its machine for so long; None = none was made, or
    its price is not known.
    """

    run: str = ""
    rows: int | None = None
    files: tuple[FileMark, ...] = ()
    settings: dict[str, str] = {}
    seconds: float | None = None
    price_usd: float | None = None

    @property
    def cost(self) -> str:
        """What it cost, in words; empty = not known."""
        return "" if self.price_usd is None else f"${self.price_usd:,.2f}"


class Beside(_Part):
    """What the gate has measured of an adapter beside the one that served; number: of that one."""

    number: int
    comparison: Comparison


class AdapterRecord(_Part):
    """One adapter.

    training, data: digests of all that the training depended on, and of the dataset's bytes.
    generation: of the Workspace that it was tuned for; 0 = not known, as of earlier versions.
    beside: None = it was measured beside none, as the first one.
    measured_rows: digest of the rows that it was measured on; empty = none, as the first one.
    by, why: who made it serve, or kept it out, and for which reason.
    answer_by: until when a person's word is waited for; empty = for as long as it takes.
    """

    number: int
    image: PublishedImage
    training: str = ""
    data: str = ""
    generation: int = 0
    held_out: HeldOut | None = None
    making: Making = Making()
    beside: Beside | None = None
    measured_rows: str = ""
    tuned: str = ""
    fate: Fate = Fate.WAITING
    by: str = ""
    why: Annotated[str, AfterValidator(harmless)] = ""
    decided: str = ""
    answer_by: str = ""

    def is_time_up(self, now: datetime) -> bool:
        """Whether a person's word has been waited for long enough."""
        return bool(self.answer_by) and utc_moment(self.answer_by) <= now


class Candidate(_Part):
    """An adapter that is being made: its number, and the data that it is tuned on.

    run: id of the run that makes it now. begun_by: of the one that has begun it, which stays the
    same whoever goes on with it; its image says so, too. Empty = not known.
    """

    number: int
    data: DataMarks
    run: str = ""
    begun_by: str = ""


class AdapterHistory(_Part):
    """The adapters of a Workspace, oldest first.

    data: that an adapter was tuned from last, whatever became of it; None = it was not looked at.
    candidate: None = none is being made.
    last_number: the highest that any has had, also one that is forgotten or came to nothing; 0 = an
    earlier version did not note it.
    told: what the last retuning came to, and when: empty = there was none.
    told_at: that moment alone. outcome: None = it made an adapter, moved one, or waits for a word.
    reason: of a failure, in a word.
    """

    records: list[AdapterRecord] = []
    data: DataMarks | None = None
    candidate: Candidate | None = None
    last_number: int = 0
    told: Annotated[str, AfterValidator(harmless)] = ""
    told_at: str = ""
    outcome: Outcome | None = None
    reason: str = ""

    def tell(
        self, what: str, now: datetime, *, outcome: Outcome | None = None, reason: str = ""
    ) -> None:
        """Note what a retuning came to."""
        self.outcome, self.reason = outcome, reason
        self.told_at = utc_text(now)
        self.told = f"{self.told_at} {what}"

    @property
    def told_what(self) -> str:
        """What the last retuning came to, without the moment."""
        return self.told.removeprefix(f"{self.told_at} ")

    def is_overtaken(self, due: datetime, *, run: str) -> bool:
        """Whether a later look than one that was due at a moment has come to its end already.

        Args: run: id of who was to look; one that goes on with its candidate has looked itself.
        """
        if not self.told_at or (self.candidate and self.candidate.run == run):
            return False
        return due < utc_moment(self.told_at)

    @property
    def next_number(self) -> int:
        """What no adapter was ever called by; the first one of all is the Workspace's own image."""
        begun = [self.candidate.number] if self.candidate else []
        return max(self.last_number, *begun, *(r.number for r in self.records), 0) + 1

    @property
    def serving(self) -> AdapterRecord | None:
        """The adapter that serves; None while none does."""
        return next((r for r in self.records if r.fate is Fate.SERVING), None)

    @property
    def former(self) -> AdapterRecord | None:
        """The adapter that served last before the one that does."""
        served = [r for r in self.records if r.fate is Fate.SERVED]
        return max(served, key=lambda record: (record.decided, record.number), default=None)

    @property
    def proven(self) -> list[Tuned]:
        """What serves or has served, the last first: what can serve again without being tuned."""
        good = [r for r in self.records if r.fate in (Fate.SERVING, Fate.SERVED)]
        good.sort(key=lambda r: (r.fate is Fate.SERVING, r.decided, r.number), reverse=True)
        return [
            Tuned(training=r.training, generation=r.generation, image=r.image, held_out=r.held_out)
            for r in good
        ]

    @property
    def last_measured(self) -> AdapterRecord | None:
        """The newest adapter of which it is known on which rows it was measured."""
        return next((r for r in reversed(self.records) if r.measured_rows), None)

    @property
    def waiting(self) -> AdapterRecord | None:
        """The newest adapter that waits for a person's word."""
        return next((r for r in reversed(self.records) if r.fate is Fate.WAITING), None)

    @property
    def on_trial(self) -> AdapterRecord | None:
        """The adapter that is being tried out, or was when its run was killed."""
        return next((r for r in reversed(self.records) if r.fate is Fate.ON_TRIAL), None)

    def find(self, number: int) -> AdapterRecord:
        """The adapter of a number.

        Raises: AdapterNotFound.
        """
        found = next((r for r in self.records if r.number == number), None)
        if found is None:
            known = ", ".join(str(r.number) for r in self.records) or "none"
            raise AdapterNotFound(
                f"adapter {number} was asked for", f"there is none (known: {known})", "name another"
            )
        return found

    def before(self, workspace: str) -> AdapterRecord:
        """The adapter that a rollback of a Workspace has serve.

        Raises: AdapterNotFound.
        """
        if self.former is None:
            raise AdapterNotFound(
                f"{workspace} was to go back to the adapter before",
                "none has served before the one that does",
                "see which there are (kaitoflow history NAME)",
            )
        return self.former

    def begin(self, data: DataMarks, *, run: str = "", free: int = 0) -> Candidate:
        """The candidate to tune from this data: the one that is being made of it, or a new one.

        Args: run: id of who begins it, and goes on with it, also where marks tell nothing of data.
        free: the first number whose image is nobody's yet, as far as that is known.
        """
        begun = self.candidate
        if begun and ((run and begun.run == run) or compare(begun.data, data).is_same):
            self.candidate = begun.model_copy(update={"run": run})
            return self.candidate
        self.last_number = max(self.next_number, free, FIRST + 1)
        self.candidate = Candidate(number=self.last_number, data=data, run=run, begun_by=run)
        return self.candidate

    def give_up_candidate(self) -> None:
        """Have the next look begin another one, under another number, from the same data."""
        self.last_number, self.candidate = self.next_number - 1, None

    def drop_candidate(self, data: DataMarks) -> None:
        """Make no adapter from this data, which is as good as what the last one was tuned from."""
        self.give_up_candidate()
        self.data = data

    def add(self, record: AdapterRecord, data: DataMarks | None) -> None:
        """Tell of an adapter that was tuned from data; one that is known already stays as it is."""
        if record.number not in [r.number for r in self.records]:
            added = [*self.records, record.model_copy()]
            self.records = sorted(added, key=lambda each: each.number)
            self.data = data
        self.last_number = max(self.last_number, record.number)
        self.candidate = None

    def add_candidate(self, record: AdapterRecord) -> None:
        """Tell of the candidate that was being made, now that its fate is known; twice is once."""
        self.add(record, self.candidate.data if self.candidate else self.data)

    def adopt(self, tuned: Tuned | None) -> None:
        """Tell of the adapter that serves, where it was tuned before anything was told of any."""
        if (
            tuned
            and tuned.image
            and tuned.image.digest not in [r.image.digest for r in self.records]
        ):
            self.add_first(tuned, data=self.data)

    def find_again(
        self, found: Sequence[AdapterRecord], *, served: Collection[str]
    ) -> Tuned | None:
        """Tell of adapters whose images were found, where none is told of; which is to serve.

        That is what is served, else what has the Workspace's own tag. Of the others nobody knows
        any more whether they served: they do again at a person's word.
        Args: served: digests of the images that the server's adapters are of.
        """
        if self.records or not found:
            return None
        self.records = sorted((each.model_copy() for each in found), key=lambda each: each.number)
        for record in self.records:
            self.keep_out(record.number, by="registry", why=_FOUND)
        newest = self.records[-1]
        self.last_number, self.data = newest.number, DataMarks(digest=newest.data)
        chosen = next(
            (each for each in self.records if each.image.digest in served),
            next((each for each in self.records if each.number == FIRST), None),
        )
        if chosen is None:
            return None
        self.promote(chosen.number, by="registry", why=_FOUND)
        return self.proven[0]

    def bring_back(self, image: PublishedImage) -> None:
        """Have an adapter serve that did before, since the Workspace asks for the same again.

        Of its data only the digest is kept: whether that has changed is for the next retuning to
        read.
        """
        known = next((r for r in self.records if r.image.digest == image.digest), None)
        if known and known is not self.serving:
            self.promote(known.number, by="run", why="what it was tuned for is asked for again")
            self.drop_candidate(DataMarks(digest=known.data))

    def keep(self, limit: int = _KEPT_MAX) -> None:
        """Forget the oldest; never the newest, what serves, may come back or is undecided.

        What became of the newest would else be told to nobody.
        """
        undecided = (self.waiting, self.on_trial)
        needed = [
            r.number for r in (self.serving, self.former, *undecided, *self.records[-1:]) if r
        ]
        # Of a status of an earlier version, which has not noted it, while they are still known.
        self.last_number = self.next_number - 1
        forgotten = [r for r in self.records if r.number not in needed]
        forgotten = forgotten[: max(0, len(self.records) - limit)]
        self.records = [r for r in self.records if r not in forgotten]

    def add_first(
        self,
        tuned: Tuned,
        *,
        data: DataMarks | None,
        making: Making | None = None,
        now: datetime | None = None,
    ) -> None:
        """Tell of the adapter that an edit of the Workspace has made, and that serves from now on.

        An image that is known already is no other adapter. making: None = it was not noted.
        """
        image = tuned.image
        assert image
        known = next((r for r in self.records if r.image.digest == image.digest), None)
        number = known.number if known else self.next_number
        moment = utc_text(now or datetime.now(UTC))
        record = known or AdapterRecord(
            number=number,
            image=image,
            training=tuned.training,
            data=data.digest if data else "",
            generation=tuned.generation,
            held_out=tuned.held_out,
            making=making or Making(),
            tuned=moment,
        )
        self.add(record, data)
        self.data = data
        self.promote(number, by="run", why="tuned for the Workspace as it is asked for", now=now)
        self.keep()

    def promote(self, number: int, *, by: str, why: str, now: datetime | None = None) -> None:
        """Have an adapter serve in the place of the one that did; twice is once.

        Raises: AdapterNotFound.
        """
        chosen, serving = self.find(number), self.serving
        if chosen is serving:
            return
        moment = utc_text(now or datetime.now(UTC))
        if serving:
            serving.fate, serving.decided = Fate.SERVED, moment
        chosen.fate, chosen.by, chosen.why, chosen.decided = Fate.SERVING, by, why, moment
        self._overtake(chosen, now=now)

    def try_out(self, number: int, *, why: str) -> None:
        """Note that an adapter is tried out beside what serves, unless its fate is decided.

        Raises: AdapterNotFound.
        """
        chosen = self.find(number)
        if chosen.fate is Fate.WAITING:
            chosen.fate, chosen.why = Fate.ON_TRIAL, why

    def await_word(self, number: int, *, why: str, answer_by: datetime) -> None:
        """Have an adapter wait for a person's word, unless its fate is decided.

        Raises: AdapterNotFound.
        """
        chosen = self.find(number)
        if chosen.fate in (Fate.WAITING, Fate.ON_TRIAL):
            chosen.fate, chosen.why, chosen.answer_by = Fate.WAITING, why, utc_text(answer_by)
            self._overtake(chosen)

    def _overtake(self, newer: AdapterRecord, *, now: datetime | None = None) -> None:
        """Keep out what is older and was undecided: its data is no more the latest."""
        for record in self.records:
            if record.number < newer.number and record.fate in (Fate.WAITING, Fate.ON_TRIAL):
                why = f"overtaken by adapter {newer.number}"
                self.keep_out(record.number, by="retuning", why=why, now=now)

    def keep_out(self, number: int, *, by: str, why: str, now: datetime | None = None) -> None:
        """Note why an adapter does not serve.

        Raises: AdapterNotFound.
        """
        chosen, moment = self.find(number), utc_text(now or datetime.now(UTC))
        chosen.fate, chosen.by, chosen.why, chosen.decided = Fate.KEPT_OUT, by, why, moment


def candidate_image(image: str, number: int) -> str:
    """The name of an adapter's own image: `IMAGE:0.0.1-g4` of `IMAGE:0.0.1`.

    Raises: ImageReferenceInvalid: the tag is too long with it.
    """
    return str(parse_push_reference(f"{parse_push_reference(image)}-g{number}"))
