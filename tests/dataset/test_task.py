"""The step's one line tells what was found, and what is not used."""

from tasks.contract.podlog import read_answer
from tasks.contract.programs.dataset import DatasetReport
from tasks.dataset.task import _advised, _summary
from tasks.platform.base import Pod
from tests.builders import tuning_workspace

OF_AN_OLDER_POD = {
    "digest": "d",
    "rows": 3,
    "tokens": {"total": 30, "min": 10, "median": 10.0, "p95": 10, "max": 10},
    "truncated_rows": 0,
    "duplicate_rows": 1,
    "max_length": 1024,
    "bad_rows": {"total": 0, "listed": []},
    "files": [],
    "train_sha256": "t",
}


def summary(**changes: object) -> str:
    return _summary(read_answer(DatasetReport, OF_AN_OLDER_POD | changes))


def test_a_report_of_an_older_pod_tells_of_no_columns() -> None:
    assert summary().endswith("0 truncated, 1 duplicates")


def test_columns_that_are_not_used_are_told_with_their_rows() -> None:
    unused = [{"name": "id", "rows": 3}, {"name": "note", "rows": 1}]
    assert summary(unused_columns=unused).endswith("; not used: id, note (in 1 rows)")


def test_how_what_is_left_out_would_be_learned_is_told() -> None:
    unused = [{"name": "x", "rows": 3, "remedy": "put it into the content"}]
    assert summary(unused_columns=unused).endswith("; not used: x: put it into the content")


def test_rows_that_teach_less_than_they_say_are_told() -> None:
    told = summary(
        texts=5,
        left_out_rows=4,
        silent_rows=2,
        cut_answer_rows=1,
        bare_answer_rows=1,
        advised_max_length=2048,
    )
    assert told.startswith("3 rows in 5 texts, ")
    assert told.endswith(
        "; 2 rows teach nothing at max_length 1024"
        " (TrainingArguments.max_length: 2048 keeps more)"
        "; 1 rows have an answer that is cut off at max_length 1024"
        "; 1 rows have an answer without a letter or digit"
        "; 4 rows say that they are not to be learned and are left out"
    )


def test_of_many_columns_the_first_are_told() -> None:
    unused = [{"name": f"k{n}", "rows": 3} for n in range(11)]
    assert summary(unused_columns=unused).endswith("k6, k7 and 3 more")


def advised(**changes: object) -> str:
    report = read_answer(DatasetReport, OF_AN_OLDER_POD | changes)
    return _advised(tuning_workspace(), Pod(name="tuning", containers=()), report)


def test_settings_that_would_suit_the_dataset_better_are_told_once_it_is_counted() -> None:
    assert advised(rows=320, answer_tokens=8_000) == ""
    assert advised(rows=320, answer_tokens=8_000_000) == (
        "; rank 8 holds about 2.44M of 8M answer tokens: LoraConfig.r 32 advised"
    )
    assert advised(rows=32) == (
        "; 32 steps are few, and move little: TrainingArguments.num_train_epochs 2 advised"
    )
