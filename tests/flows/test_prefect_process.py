"""Prefect's server runs as our other processes do."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from flows.heap import settle_heap


def test_prefects_command_line_is_prefects() -> None:
    ours, theirs = (
        subprocess.run([sys.executable, "-m", module, "version"], capture_output=True, check=True)
        for module in ("flows.prefect_process", "prefect")
    )
    assert ours.stdout == theirs.stdout
    assert b"3.8" in ours.stdout


def test_what_is_loaded_is_not_looked_at_again() -> None:
    before = gc.get_threshold()
    try:
        settle_heap()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


# One connection has the lock, which this thread is to give back; another one waits for it in a
# thread, and has a cursor of which only a cycle is left.
_WAITS_FOR_THE_LOCK = """
import gc, sqlite3, sys, threading, time
from flows.heap import collect_aside

def connect():
    return sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None, check_same_thread=False)

holder, waiter = connect(), connect()
holder.execute("CREATE TABLE numbers (number)")
holder.execute("INSERT INTO numbers VALUES (1), (2)")
gc.collect()
gc.set_threshold(1000)
if sys.argv[2] == "aside":
    collect_aside()
unread = waiter.execute("SELECT 1 UNION SELECT 2")
cycle = [unread]
cycle.append(cycle)
holder.execute("BEGIN IMMEDIATE")

def wait():
    try:
        waiter.execute("BEGIN IMMEDIATE")
        print("got the lock")
    except sqlite3.OperationalError as error:
        print(error)

thread = threading.Thread(target=wait)
thread.start()
time.sleep(0.5)
del unread, cycle
kept = [[] for _ in range(5000)]
time.sleep(1)
holder.execute("COMMIT")
thread.join()
"""


@pytest.mark.parametrize(
    ("who", "expected"), [("aside", "got the lock\n"), ("by itself", "database is locked\n")]
)
def test_a_collected_cursor_does_not_hold_up_who_has_the_lock(
    tmp_path: Path, who: str, expected: str
) -> None:
    command = [sys.executable, "-c", _WAITS_FOR_THE_LOCK, str(tmp_path / "numbers.db"), who]
    said = subprocess.run(command, capture_output=True, check=True, text=True)
    assert said.stdout == expected
