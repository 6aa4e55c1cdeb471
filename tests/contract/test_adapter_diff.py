"""Two adapters side by side: which two a person means, and what of them is not the same."""

import pytest

from tasks.contract.adapter_diff import choose, diff
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Beside, Making
from tasks.contract.artifacts import PublishedImage
from tasks.contract.comparison import Comparison
from tasks.contract.data_marks import FileMark
from tasks.contract.errors import AdapterNotFound
from tasks.contract.gate import Metric
from tasks.contract.programs.tuning import HeldOut


def record(number: int, **more: object) -> AdapterRecord:
    image = PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")
    return AdapterRecord.model_validate({"number": number, "image": image, **more})


def history(*, served: int, kept_out: int = 0, waiting: int = 0) -> AdapterHistory:
    """So many adapters that served one after the other, then the others."""
    made = AdapterHistory()
    for number in range(1, served + kept_out + waiting + 1):
        made.add(record(number), None)
        if number <= served:
            made.promote(number, by="gate", why="better")
        elif number <= served + kept_out:
            made.keep_out(number, by="gate", why="worse")
    return made


def numbers(made: AdapterHistory, *named: int) -> tuple[int, int]:
    before, after = choose(made, *named)
    return before.number, after.number


def file(name: str, digest: str, size: int = 10) -> FileMark:
    return FileMark(name=name, bytes=size, digest=digest)


def made_from(*files: FileMark, **settings: str) -> dict[str, object]:
    return {"data": str(files), "making": Making(files=files, settings=settings)}


def test_without_numbers_what_serves_is_shown_beside_the_candidate_that_waits() -> None:
    assert numbers(history(served=2, waiting=1)) == (2, 3)


def test_else_the_adapter_before_is_shown_beside_what_serves() -> None:
    assert numbers(history(served=3, kept_out=1)) == (2, 3)


def test_where_one_has_ever_served_it_is_shown_beside_the_last_that_did_not() -> None:
    assert numbers(history(served=1, kept_out=2)) == (3, 1)


def test_one_number_is_shown_beside_what_serves_and_two_as_they_are_named() -> None:
    made = history(served=3)
    assert (numbers(made, 1), numbers(made, 3, 1)) == ((1, 3), (3, 1))


@pytest.mark.parametrize(
    ("made", "named", "words"),
    [
        (AdapterHistory(), (), "none serves; name two"),
        (history(served=1), (), "there is adapter 1 alone"),
        (history(served=2), (2,), "both are the same"),
        (history(served=2), (2, 7), "there is none .known: 1, 2"),
    ],
)
def test_what_cannot_be_compared_is_told(
    made: AdapterHistory, named: tuple[int, ...], words: str
) -> None:
    with pytest.raises(AdapterNotFound, match=words):
        choose(made, *named)


def test_settings_that_differ_are_told_by_name_with_both_values() -> None:
    before = made_from(**{"LoraConfig.r": "8", "a": "1", "gone": "x"})
    after = made_from(**{"LoraConfig.r": "16", "a": "1"})
    told = diff(record(1, **before), record(2, **after))
    assert [(row.name, row.before, row.after) for row in told.other_settings] == [
        ("LoraConfig.r", "8", "16"),
        ("gone", "x", ""),
    ]


def test_what_changed_of_the_data_is_told_file_by_file() -> None:
    before = made_from(file("a", "1"), file("b", "1"), file("c", "1"))
    after = made_from(file("a", "1"), file("b", "2", 2000), file("d", "1"))
    told = diff(record(1, **before), record(2, **after))
    assert told.data == (
        "b has other bytes (2,000 bytes, not 10 bytes)",
        "c is gone",
        "d is new (10 bytes)",
    )


def test_the_same_data_and_data_of_which_nothing_was_noted_are_told() -> None:
    same = [record(number, data="d") for number in (1, 2)]
    unknown = [record(1, data="d"), record(2, data="e")]
    assert diff(*same).data == ("the same bytes",)
    assert diff(*unknown).data == ("which files have changed was not noted",)


def test_what_is_known_of_an_adapter_is_told_as_a_person_reads_it() -> None:
    held_out = HeldOut(rows=29, loss_before=3.8, loss_after=3.0, gain_low=0.6, gain_high=1.0)
    known = record(
        2,
        fate="serving",
        tuned="2026-01-01T00:00:00Z",
        generation=3,
        data="sha256:0123456789abcdef",
        making=Making(rows=290, seconds=7200.0, price_usd=3.061),
        held_out=held_out,
        by="gate",
        decided="2026-01-02T00:00:00Z",
    )
    facts = diff(record(1), known).facts
    assert {row.name: row.after for row in facts} == {
        "fate": "serving",
        "tuned": "2026-01-01T00:00:00Z",
        "generation": "3",
        "held-out loss": "3.800 -> 3.000 on 29 answers",
        "gain over base": "+0.800 (95 % interval +0.600 to +1.000)",
        "data": "0123456789ab",
        "rows": "290",
        "tuned for": "2 h",
        "cost": "$3.06",
        "image": "r.example.com/a:1-g2",
        "digest": "2",
        "by": "gate",
        "decided": "2026-01-02T00:00:00Z",
    }
    assert {row.name: row.before for row in facts if row.before} == {
        "fate": "waiting",
        "image": "r.example.com/a:1-g1",
        "digest": "1",
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_the_gate_measured_of_the_two_is_told_whichever_is_named_first(
    order: tuple[int, int],
) -> None:
    seen = Comparison(
        metric=Metric.LOSS,
        rows=30,
        candidate=2.0,
        reference=2.3,
        difference=-0.3,
        low=-0.4,
        high=-0.2,
    )
    both = (record(1), record(2, beside=Beside(number=1, comparison=seen)))
    assert diff(both[order[0]], both[order[1]]).measured == (
        "adapter 2 beside adapter 1: candidate's loss 2.000 is 0.300 better than 2.300 on 30 rows "
        "(95 % interval -0.400 to -0.200)"
    )
