"""What a pod program says is read back by its platform, whatever else is in the log."""

import errno
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks.contract.errors import DatasetUnreadable, DiskFull, InternalError
from tasks.contract.podlog import (
    _typed,
    is_disk_full,
    parse_event,
    read_answer,
    run_program,
    verdict_error,
)
from tasks.contract.programs.image import PullResult
from tests.platform.toy import ToyAnswer, ToyConfig


def run_toy(tmp_path: Path, does: str) -> tuple[int, list[str]]:
    config = tmp_path / "toy.json"
    config.write_text(json.dumps({"does": does}))
    command = [sys.executable, "-m", "tests.platform.toy", str(config)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize("line", ["", "loading", "{not json}", '{"no": "event"}', '{"event": 3}'])
def test_ordinary_log_lines_are_no_events(line: str) -> None:
    assert parse_event(line) is None


def test_an_event_is_read_with_its_fields() -> None:
    assert parse_event('{"event": "progress", "step": 3}') == {"event": "progress", "step": 3}


def test_a_program_that_ends_well_says_its_result_last(tmp_path: Path) -> None:
    code, lines = run_toy(tmp_path, "work")
    assert code == 0
    assert parse_event(lines[-1]) == {"event": "result", "answer": 42}


@pytest.mark.parametrize(
    ("does", "code", "reason", "words"),
    [
        ("refuse", 3, "DatasetUnreadable", "asked; found; do"),
        ("crash", 1, "InternalError", "KeyError; 'x'"),
        ("fill the disk", 1, "DiskFull", "no space left"),
        ("fill the disk in Rust", 1, "DiskFull", "no space left"),
        ("raise DownloadFailed", 75, "DownloadFailed", "asked; found; do"),
        ("raise TrainingDiverged", 1, "TrainingDiverged", "asked; found; do"),
        ("eat the memory", 1, "OutOfMemory", "lower the batch size"),
    ],
)
def test_a_failure_becomes_a_verdict(
    tmp_path: Path, does: str, code: int, reason: str, words: str
) -> None:
    ended, lines = run_toy(tmp_path, does)
    verdict = parse_event(lines[-1])
    assert verdict is not None
    assert (ended, verdict["event"], verdict["reason"]) == (code, "verdict", reason)
    assert words in str(verdict_error(verdict))


@pytest.mark.parametrize("line", ['{"event": "result"}', '{"event": "result", "nonce": "guess"}'])
def test_an_event_without_the_nonce_is_an_ordinary_line(line: str) -> None:
    assert parse_event(line, nonce="secret") is None


def test_an_event_with_the_nonce_is_read_without_it() -> None:
    line = '{"event": "result", "answer": 42, "nonce": "secret"}'
    assert parse_event(line, nonce="secret") == {"event": "result", "answer": 42}
    assert parse_event(line) == {"event": "result", "answer": 42}


def test_no_secret_of_a_url_is_written(tmp_path: Path) -> None:
    config = tmp_path / "toy.json"
    config.write_text(json.dumps({"does": "tell secrets"}))
    command = [sys.executable, "-m", "tests.platform.toy", str(config)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "canary" not in said.stdout + said.stderr
    assert "https://***@host/data.jsonl?sv=1&sig=***&X-Amz-Signature=***" in said.stderr
    assert "HTTP Request" not in said.stderr
    assert "***@host" in said.stdout


def test_an_answer_comes_back_as_the_type_it_was() -> None:
    answer = PullResult(reference="r", digest="d", bytes=1, source="layout", changed=True)
    fields = {"event": "result", **asdict(answer), "of a newer version": 1}
    assert read_answer(PullResult, fields) == answer


def test_an_answer_of_another_version_is_told() -> None:
    with pytest.raises(InternalError, match=r"a PullResult was expected .*'reference'.*same vers"):
        read_answer(PullResult, {"event": "result"})


def test_a_verdict_of_another_version_is_still_the_error_it_names() -> None:
    told = verdict_error({"event": "verdict", "reason": "DiskFull", "message": "a; b; c"})
    assert (told.reason, str(told)) == ("DiskFull", "a; b; c")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_number(number: int) -> None:
    assert isinstance(_typed(OSError(number, "x", "/data/a")), DiskFull)
    assert isinstance(_typed(OSError(errno.EACCES, "x", "/data/a")), InternalError)


@pytest.mark.parametrize(
    ("words", "is_full"),
    [
        ("I/O error: No space left on device (os error 28)", True),
        ("PytorchStreamWriter failed writing file data/0", True),
        ("the shapes do not fit", False),
    ],
)
def test_a_full_disk_is_known_by_the_words_of_who_keeps_no_number(
    words: str, *, is_full: bool
) -> None:
    assert is_disk_full(RuntimeError(words)) == is_full


def test_a_program_that_is_asked_to_stop_ends_with_143(tmp_path: Path) -> None:
    config = tmp_path / "toy.json"
    config.write_text(json.dumps({"does": "wait"}))
    command = [sys.executable, "-m", "tests.platform.toy", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert "progress" in program.stdout.readline()
        program.terminate()
        assert program.wait(10) == 143


@pytest.fixture
def as_a_process() -> Iterator[None]:
    """Undo what a program does to the process that it has for itself."""
    factory, handlers = logging.getLogRecordFactory(), logging.root.handlers[:]
    level, handler = logging.root.level, signal.getsignal(signal.SIGTERM)
    yield
    logging.setLogRecordFactory(factory)
    logging.root.handlers, logging.root.level = handlers, level
    signal.signal(signal.SIGTERM, handler)


def run_here(tmp_path: Path, main: Callable[[ToyConfig], object]) -> int:
    config = tmp_path / "toy.json"
    config.write_text(json.dumps({"does": "work"}))
    logging.root.handlers = []  # pytest's own
    return run_program(ToyConfig, main, ["program", str(config)])


@pytest.mark.parametrize("nonce", ["", "secret"])
def test_an_events_nonce_is_the_environments(
    tmp_path: Path,
    as_a_process: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    nonce: str,
) -> None:
    monkeypatch.setenv("KAITOFLOW_EVENT_NONCE", nonce)
    assert run_here(tmp_path, lambda _config: ToyAnswer()) == 0
    said = json.loads(capsys.readouterr().out)
    expected = {"event": "result", "answer": 42}
    assert said == (expected | {"nonce": "secret"} if nonce else expected)


def test_what_a_program_logs_is_one_line_each(
    tmp_path: Path, as_a_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_config: ToyConfig) -> ToyAnswer:
        logging.getLogger("toy").info("a\n{}")
        raise DiskFull("asked", "found", "do")

    assert run_here(tmp_path, main) == 1
    said = capsys.readouterr()
    assert said.err.endswith(" INFO toy a\\n{}\n")
    verdict = parse_event(said.out.strip())
    assert verdict is not None
    assert verdict["reason"] == "DiskFull"


def test_an_error_of_ours_stays_what_it_is_and_a_full_disk_names_its_file() -> None:
    ours = DatasetUnreadable("a", "No space left on device", "c")
    assert _typed(ours) is ours
    assert "cannot write /data/a;" in str(_typed(OSError(errno.ENOSPC, "x", "/data/a")))
    assert "cannot write a file;" in str(_typed(RuntimeError("No space left on device")))
