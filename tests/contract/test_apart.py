"""What is done apart has bounds of time and of memory, and an answer or a refusal within them."""

import os
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import apart
from tasks.contract.apart import Overrun, ask

PROGRAM = """
import resource, time
from tasks.contract.apart import serve

def answer(question):
    if question == "wait":
        time.sleep(60)
    if question == "take all memory":
        return len(bytearray(2**31))
    if question == "tell the bounds":
        return [resource.getrlimit(each) for each in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    return question

serve(answer)
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apart_program.py").write_text(PROGRAM)
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), known]))


@pytest.mark.parametrize("question", [{"rows": [1, None, "Ä"]}, "", 0])
def test_an_answer_comes_back_as_it_was_given(question: Any) -> None:
    assert ask("apart_program", question) == question


def test_a_program_has_bounds_that_the_system_holds() -> None:
    assert ask("apart_program", "tell the bounds") == [[3, 3], [2**29, 2**29]]


@pytest.mark.parametrize(
    ("module", "question"),
    [("apart_program", "wait"), ("apart_program", "take all memory"), ("no_such_program", "")],
)
def test_what_is_beyond_the_bounds_or_ends_without_an_answer_is_an_overrun(
    module: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if question == "wait":
        monkeypatch.setattr(apart, "WITHIN_S", 0.3)
    with pytest.raises(Overrun, match="^it takes over 3 s or 512 MiB$"):
        ask(module, question)
