"""Questions that may block are asked in threads that nobody has to wait for."""

import asyncio
import stat
import threading

import pytest

from tasks.plan import asking
from tasks.plan.asking import ask, login_file


async def test_an_answer_comes_back_and_so_does_an_error() -> None:
    def failing() -> str:
        raise SystemExit("asked and failed")

    assert await ask(lambda: "answer", limit_s=60) == "answer"
    with pytest.raises(SystemExit, match="asked and failed"):
        await ask(failing, limit_s=60)


async def test_a_question_that_hangs_is_given_up_and_holds_up_the_end_of_nothing() -> None:
    answered, threads = threading.Event(), list[threading.Thread]()

    def hanging() -> None:
        threads.append(threading.current_thread())
        answered.wait()

    with pytest.raises(TimeoutError):
        await ask(hanging, limit_s=0.05)
    answered.set()
    assert all(each.daemon for each in threads)


async def test_a_question_that_is_given_up_gives_its_turn_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "AT_ONCE", 1)
    answered = threading.Event()
    with pytest.raises(TimeoutError):
        await ask(answered.wait, limit_s=0.05)
    assert await ask(lambda: "answer", limit_s=60) == "answer"
    answered.set()


async def test_sixteen_are_asked_at_once_and_no_more() -> None:
    there, most = set[int](), list[int]()
    all_of_them = threading.Barrier(16, timeout=60)

    def question() -> None:
        there.add(threading.get_ident())
        all_of_them.wait()
        most.append(len(there))
        all_of_them.wait()
        there.discard(threading.get_ident())

    await asyncio.gather(*(ask(question, limit_s=60) for _ in range(48)))
    assert most == [16] * 48


def test_a_login_is_a_file_that_nobody_else_reads_and_that_is_gone_afterwards() -> None:
    with login_file(b"{}") as login:
        assert login
        assert stat.S_IMODE(login.stat().st_mode) == 0o600
        assert login.read_bytes() == b"{}"
    assert not login.exists()
