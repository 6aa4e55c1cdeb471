"""The demo's dataset reads well, is the same for one seed, and says so when it cannot be."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo.docstrings import documented_names, first_sentences, write_docstring_dataset
from tasks.contract.errors import DatasetRowsInvalid


def rows_of(path: Path) -> list[list[dict[str, str]]]:
    """The conversations in a file."""
    return [row["messages"] for row in pq.read_table(path).to_pylist()]


def test_the_command_writes_a_question_and_an_answer_in_each_row(tmp_path: Path) -> None:
    """`python -m` with two options is all that the demo needs."""
    target = tmp_path / "new" / "train.parquet"
    program = [sys.executable, "-m", "demo.docstrings", str(target), "--rows", "40"]
    subprocess.run(program, check=True, timeout=60)
    rows = rows_of(target)
    assert len(rows) == 40
    assert {tuple(message["role"] for message in row) for row in rows} == {("user", "assistant")}


def test_one_seed_gives_one_file_and_another_seed_another(tmp_path: Path) -> None:
    """The demo can be repeated."""
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_docstring_dataset(tmp_path / name, rows=30, seed=seed)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    assert rows_of(tmp_path / "first") != rows_of(tmp_path / "other")


def test_more_rows_than_docstrings_is_refused_with_the_number_there_is(tmp_path: Path) -> None:
    """No row twice, no silent shortage."""
    with pytest.raises(DatasetRowsInvalid, match=r"999999 rows .* has \d{4} usable .* ask for"):
        write_docstring_dataset(tmp_path / "train.parquet", rows=999_999, seed=0)


def test_answers_are_short_prose_and_never_the_same() -> None:
    """A thousand and more, each one or two sentences of plain text."""
    answers = [entry.answer for entry in documented_names()]
    assert len(answers) > 1000
    assert len(set(answers)) == len(answers)
    assert all(20 <= len(answer) <= 400 and answer.endswith(".") for answer in answers)


def test_names_are_public_and_spelt_as_people_import_them() -> None:
    """`os.path.join`, not `posixpath.join`; nothing private."""
    names = {entry.name for entry in documented_names()}
    assert {"os.path.ismount", "asyncio.sleep", "json.dump", "str.startswith", "math.sqrt"} <= names
    assert not [name for name in names if "._" in name or name.startswith(("_", "posixpath"))]


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        ("Return x.y as a\n   string.\n\nSee z.", "Return x.y as a string."),
        ("f(x) -> int\n\nReturn the size of x.", "Return the size of x."),
        ("Use ``a`` with :func:`~os.stat` here.", "Use `a` with `os.stat` here."),
        ("Give things, e.g. Paris. Two is more. Three.", "Give things, e.g. Paris. Two is more."),
        ("Short one.", None),
        ("lower case opens this text.", None),
        ("Do what follows::\n    x = 1", None),
        ("", None),
    ],
)
def test_a_docstring_is_cleaned_or_left_out(docstring: str, answer: str | None) -> None:
    """Signatures and markup go; what would not read well is no answer."""
    assert first_sentences(docstring) == answer
