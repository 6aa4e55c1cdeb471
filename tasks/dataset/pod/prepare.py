"""The whole step: files -> `train.jsonl` and, written last, `report.json`.

A second start with the same arguments, bytes and tokenizer returns the report that is there. What
could not be used is asked for anew the next time, since the server may have mended it.
"""

import hashlib
import json
import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from tasks.chat.lessons import Lesson
from tasks.contract.errors import DatasetRowsInvalid, DatasetUnreadable
from tasks.contract.programs.dataset import DatasetConfig
from tasks.dataset.pod import files as dataset_files
from tasks.dataset.pod.fetch import disk_full_explained, file_sha256
from tasks.dataset.pod.files import DataFile
from tasks.dataset.pod.formats import open_rows
from tasks.dataset.pod.progress import Progress
from tasks.dataset.pod.rows import BadRow, Row, Unfit
from tasks.dataset.pod.shapes import LOOKED_AT, LeftOut, NormalRow, normalise
from tasks.dataset.pod.sniff import unreadable
from tasks.dataset.pod.tokens import Reach, TokenCounter
from tasks.estimate.positions import read_positions

log = logging.getLogger(__name__)

REPORT_VERSION = 6
LISTED_BAD_ROWS = 20
# Names that are data (an id as a key) would grow without end.
LISTED_COLUMNS = 50
OTHER_COLUMNS = "(others)"
BAD_ROWS_IN_MESSAGE = 5
# With more rows that teach nothing, or no answer to its end, the run were not what was asked for.
LOST_SHARE = 0.5
REASONING = "messages[].reasoning_content"
REMEDY = "the chat template leaves it out; put <think>...</think> before the content to keep it"
BATCH_ROWS = 512
# Each row costs memory here and in the trainer; no tuning on one machine sees that many.
MAX_ROWS = 50_000_000
# No context is that long; the tokenizer aborts the process at some sixty million.
ROW_CHARS = 16 * 2**20
BATCH_CHARS = 4 * 2**20

Report = dict[str, Any]


def prepare_dataset(config: DatasetConfig) -> Report:
    """The report on a dataset whose rows lie in `data_dir/train.jsonl`, ready to train on.

    Raises: DatasetUnreachable, DownloadFailed, DatasetUnreadable, DatasetRowsInvalid, DiskFull;
        WeightsUnavailable: no tokenizer to count with.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True)
    files = dataset_files.gather_files(config)
    key = _key(config, files)
    earlier = _earlier_report(config.data_dir, key)
    if earlier:
        log.info("dataset reused rows=%d digest=%s", earlier["rows"], earlier["digest"])
        return earlier
    try:
        intake, formats = _read_files(config, files)
    except (DatasetUnreadable, DatasetRowsInvalid) as error:
        dataset_files.mark_stale(files)
        page = next((file.url for file in files if "/blob/" in file.url), None)
        if page and "HTML page" in error.found:
            # The page about a file, on Hugging Face and GitHub; the file has an address beside it.
            fix = f"use the file's own address: {page.replace('/blob/', '/resolve/', 1)}"
            raise DatasetUnreadable(error.asked, error.found, fix) from error
        raise
    report = {"key": key, **_described(files, formats), **intake.summary()}
    report["train_sha256"] = file_sha256(config.data_dir / "train.jsonl")
    with _replacing(config.data_dir / "report.json") as out:
        json.dump(report, out, indent=2)
    log.info("dataset ready rows=%d tokens=%d", report["rows"], report["tokens"]["total"])
    return report


class Intake:
    """Takes rows one after the other, writes those that fit, and remembers only figures."""

    def __init__(self, out: TextIO, counter: TokenCounter, config: DatasetConfig) -> None:
        self._out, self._counter, self._config = out, counter, config
        self._waiting: list[tuple[Lesson, bool, int]] = []
        self._waiting_chars = 0
        self._written_bytes = 0
        self._lengths: Counter[int] = Counter()
        # Eight bytes a row: ten million rows make one false duplicate with a chance of 3e-6.
        self._fingerprints = array("Q")
        self._unused: Counter[str] = Counter()
        self._limit = min(config.max_length, read_positions(config.weights_dir) or MAX_ROWS)
        # After how many tokens the first answer begins, of rows in which that is past the limit.
        self._begins: Counter[int] = Counter()
        # And after how many it is whole, of rows in which that is.
        self._answered: Counter[int] = Counter()
        self._left_out: Counter[str] = Counter()
        self._cut_answers = self._bare_answers = 0
        self._answer_tokens = 0.0
        self.bad_rows = 0
        self.listed: list[dict[str, str | int]] = []

    @property
    def rows(self) -> int:
        """The rows that fit so far."""
        return len(self._fingerprints)

    def take(self, file: str, row: Row | BadRow) -> None:
        """Keep a row, or its fault.

        Raises: DatasetUnreadable: it is one too many.
        """
        if self.rows + self.bad_rows >= MAX_ROWS:
            raise DatasetUnreadable(
                f"{file} was to be read",
                f"the dataset has more than {MAX_ROWS} rows, the most that it may have",
                "use fewer rows, or put several short ones into one",
            )
        if isinstance(row, BadRow):
            self._refuse(file, row.number, row.reason)
            return
        try:
            fit, unused = normalise(row.values, self._config.columns)
            lessons = self._counter.lessons(fit)
        except LeftOut as said:
            self._left_out[str(said)] += 1
            return
        except Unfit as fault:
            self._refuse(file, row.number, str(fault))
            return
        if (chars := sum(len(lesson.text) for lesson in lessons)) > ROW_CHARS:
            reason = f"it has {chars} characters, a row may have {ROW_CHARS}; split it"
            self._refuse(file, row.number, reason)
            return
        self._keep(fit, lessons)
        self._bare_answers += _has_bare_answer(fit)
        if self._counter.leaves_out_reasoning(fit):
            unused = unused | {REASONING}
        self.pass_over(unused, rows=1)

    def pass_over(self, names: Iterable[str], *, rows: int) -> None:
        """Remember columns that hold something and are not used."""
        for name in (name[:100] for name in names):
            is_listed = name in self._unused or len(self._unused) < LISTED_COLUMNS
            self._unused[name if is_listed else OTHER_COLUMNS] += rows

    def finish(self) -> None:
        """Count what is still waiting."""
        long: dict[int, list[Reach]] = {}
        for plain in (True, False):
            waiting = [one for one in self._waiting if one[1] == plain]
            lengths = self._counter.count([lesson for lesson, *_ in waiting], plain=plain)
            self._lengths.update(lengths)
            for length, (lesson, _, row) in zip(lengths, waiting, strict=True):
                is_long = length > self._limit
                self._answer_tokens += min(length, self._limit) * lesson.taught_share
                reach = self._counter.reach(lesson) if is_long else Reach(0, 0, 0)
                long.setdefault(row, []).append(reach)
        for reaches in long.values():
            begins = min(reach.begins for reach in reaches)
            answered = min(reach.answered for reach in reaches)
            if begins > self._limit:
                self._begins[begins] += 1
            elif max(reach.ends for reach in reaches) > self._limit:
                self._cut_answers += 1
            if answered > self._limit:
                self._answered[answered] += 1
        self._waiting, self._waiting_chars = [], 0

    def summary(self) -> Report:
        """The figures of a report."""
        limit = self._limit
        return {
            "rows": self.rows,
            "texts": self._lengths.total(),
            "answer_tokens": round(self._answer_tokens),
            "tokens": spread(self._lengths),
            "truncated_rows": sum(n for length, n in self._lengths.items() if length > limit),
            "duplicate_rows": self.rows - _distinct(self._fingerprints),
            "max_length": limit,
            "bad_rows": {"total": self.bad_rows, "listed": self.listed},
            "unused_columns": [
                {"name": name, "rows": rows} | ({"remedy": REMEDY} if name == REASONING else {})
                for name, rows in sorted(self._unused.items())
                if rows
            ],
            "left_out_rows": self._left_out.total(),
            "silent_rows": self.silent_rows,
            "cut_answer_rows": self._cut_answers,
            "bare_answer_rows": self._bare_answers,
            "advised_max_length": self.advised_max_length(),
        }

    @property
    def silent_rows(self) -> int:
        """The rows so far of which nothing is learned."""
        return self._begins.total()

    def advised_max_length(self) -> int | None:
        """The least power of two that leaves one row in twenty silent at most, if any helps."""
        return self._least_length(self._begins)

    def _least_length(self, needed: Counter[int]) -> int | None:
        """The least power of two with which one row in twenty at most needs more, if any helps.

        Args: needed: how many tokens rows need that lack some at the limit.
        """
        most = read_positions(self._config.weights_dir) or max(needed, default=0) * 2
        lengths = [2**n for n in range(3, 24) if self._limit < 2**n <= most]
        kept = {length: self.rows - _beyond(needed, length) for length in lengths}
        enough = [length for length in lengths if kept[length] >= 0.95 * self.rows]
        best = enough[0] if enough else max(lengths, key=kept.__getitem__, default=None)
        return best if best and kept[best] > self.rows - needed.total() else None

    def expect_answers(self) -> None:
        """Nothing, where most rows teach something, and an answer to its end where they have one.

        Raises: DatasetRowsInvalid.
        """
        silent, unanswered, rows = self.silent_rows, self._answered.total(), self.rows
        accepted = max(LOST_SHARE, self._config.bad_rows_tolerance)
        if silent > accepted * rows:
            needed, fix = self._begins, "shorten what comes before the answers"
            lost = f"{silent} of {rows} rows teach nothing, as no answer begins within them"
        elif unanswered > accepted * rows:
            needed, fix = self._answered, "shorten the answers"
            lost = f"{unanswered} of {rows} rows teach no answer to its end, and so not to end one"
        else:
            return
        if length := self._least_length(needed):
            kept = rows - _beyond(needed, length)
            fix = f"TrainingArguments.max_length: {length} would keep {kept}"
        raise DatasetRowsInvalid(
            f"{rows} rows were to be trained on at {self._limit} tokens",
            lost,
            f"{fix}; or accept it with the annotation {_tolerance(needed.total(), rows)}",
        )

    def left_out(self) -> str:
        """The words by which rows say that they are not to be learned, and of how many."""
        return ", ".join(f"{rows} by {word}" for word, rows in sorted(self._left_out.items()))

    def _keep(self, fit: NormalRow, lessons: Sequence[Lesson]) -> None:
        line = json.dumps(fit, ensure_ascii=False)
        encoded = line.encode()
        self._expect_room(len(encoded) + 1)
        self._out.write(line + "\n")
        digest = hashlib.blake2b(encoded, digest_size=8).digest()
        self._fingerprints.append(int.from_bytes(digest, "little"))
        self._waiting += [(lesson, "messages" not in fit, self.rows) for lesson in lessons]
        self._waiting_chars += sum(len(lesson.text) for lesson in lessons)
        if len(self._waiting) >= BATCH_ROWS or self._waiting_chars >= BATCH_CHARS:
            self.finish()

    def _expect_room(self, line_bytes: int) -> None:
        self._written_bytes += line_bytes
        if self._written_bytes > self._config.max_bytes:
            raise DatasetUnreadable(
                "the rows were to be written to train.jsonl",
                f"they have more than {self._config.max_bytes} bytes, though the files are smaller",
                "use fewer rows",
            )

    def _refuse(self, file: str, number: int, reason: str) -> None:
        self.bad_rows += 1
        if len(self.listed) < LISTED_BAD_ROWS:
            self.listed.append({"file": file, "row": number, "reason": reason})


def _beyond(needed: Counter[int], length: int) -> int:
    """How many rows need more tokens than that."""
    return sum(rows for tokens, rows in needed.items() if tokens > length)


def _tolerance(rows: int, of: int) -> str:
    """The annotation that accepts so many rows, which is a share of all, rounded up."""
    return f'kaitoflow.io/bad-rows-tolerance: "{math.ceil(1000 * rows / of) / 1000:g}"'


def _has_bare_answer(fit: NormalRow) -> bool:
    """Whether an answer that is learned has no letter and no digit."""
    answers = [str(fit["completion"])] if "completion" in fit else []
    answers += [
        str(message["content"] or "")
        for message in fit.get("messages", ())
        if message["role"] == "assistant" and not message.get("tool_calls")
    ]
    return any(not any(map(str.isalnum, answer)) for answer in answers)


def spread(lengths: Counter[int]) -> dict[str, int | float]:
    """Total, min, median, p95 and max of values given with how often each occurs."""
    values = sorted(lengths)
    count = lengths.total()

    def at(position: int) -> int:
        passed = 0
        for value in values:
            passed += lengths[value]
            if passed > position:
                return value
        return values[-1]

    return {
        "total": sum(value * times for value, times in lengths.items()),
        "min": values[0],
        "median": (at((count - 1) // 2) + at(count // 2)) / 2,
        "p95": at((95 * count + 99) // 100 - 1),  # the nearest rank
        "max": values[-1],
    }


def _distinct(fingerprints: "array[int]") -> int:
    buffer = pa.py_buffer(fingerprints)
    values = pa.Array.from_buffers(pa.uint64(), len(fingerprints), [None, buffer])
    return len(values.unique())


def _read_files(config: DatasetConfig, files: Sequence[DataFile]) -> tuple[Intake, list[str]]:
    counter, progress = TokenCounter(config.weights_dir, config.chat_template), Progress()
    columns = LOOKED_AT | {name for name in asdict(config.columns).values() if name}
    formats = []
    with _replacing(config.data_dir / "train.jsonl") as out:
        intake = Intake(out, counter, config)
        for file in files:
            with open_rows(
                file.path,
                file.name,
                columns=columns,
                unpack_to=config.data_dir / "unpacked.tmp",
                max_bytes=config.max_bytes,
            ) as source:
                formats.append(source.format)
                before = intake.rows
                for row in source.rows:
                    intake.take(file.name, row)
                    progress.tell(phase="read", file=file.name, rows=intake.rows)
            intake.pass_over(source.unread, rows=intake.rows - before)
            if file.fetched and source.format == "txt" and intake.rows == before + 1:
                # What servers answer where a file is gone or forbidden, with status 200.
                raise unreadable(
                    file.name,
                    "its address answers with a single line of text",
                    "open the address to see what it says; if it is data, give it a second row",
                )
        intake.finish()
        _check(intake, config, [file.name for file in files])
    return intake, formats


def _check(intake: Intake, config: DatasetConfig, names: Sequence[str]) -> None:
    bad, seen = intake.bad_rows, intake.bad_rows + intake.rows
    if not seen:
        left_out = intake.left_out()
        raise DatasetRowsInvalid(
            f"cannot train on {', '.join(names[:5])}",
            f"no row is to be learned ({left_out})" if left_out else "there is not a single row",
            "add rows",
        )
    if intake.rows and bad / seen <= config.bad_rows_tolerance:
        intake.expect_answers()
        return
    shown = "; ".join(
        f"{one['file']} row {one['row']}: {one['reason']}"
        for one in intake.listed[:BAD_ROWS_IN_MESSAGE]
    )
    more = f"; and {bad - BAD_ROWS_IN_MESSAGE} more" if bad > BAD_ROWS_IN_MESSAGE else ""
    fix = "fix the rows"
    if intake.rows:
        fix += f", or leave them out with the annotation {_tolerance(bad, seen)}"
    raise DatasetRowsInvalid(
        f"{bad} of {seen} rows cannot be trained on",
        f"{shown}{more}",
        f"{fix}",
    )


def _described(files: Sequence[DataFile], formats: Sequence[str]) -> Report:
    return {
        "digest": _digest(files),
        "files": [
            {
                "name": file.name,
                "url": file.url,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "format": form,
            }
            for file, form in zip(files, formats, strict=True)
        ],
    }


def _digest(files: Sequence[DataFile]) -> str:
    return hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


def _key(config: DatasetConfig, files: Sequence[DataFile]) -> str:
    """What a report depends on; addresses may hold secrets, so only their digest is kept."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    parts = [str(REPORT_VERSION), json.dumps(asdict(config), default=str), _digest(files)]
    paths = [config.weights_dir / name for name in names]
    parts += [file_sha256(path) if path.is_file() else "" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _earlier_report(data_dir: Path, key: str) -> Report | None:
    try:
        report = json.loads((data_dir / "report.json").read_bytes())
        same = report["key"] == key
        if same and report["train_sha256"] == file_sha256(data_dir / "train.jsonl"):
            return dict(report)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes `path`'s place once it is whole, and leaves nothing behind if not."""
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with disk_full_explained(draft):
            with draft.open("w", encoding="utf-8") as out:
                yield out
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
