"""When data is surely what it was, and what is said of it."""

import pytest

from tasks.contract.data_marks import DataMarks, FileMark, compare


def seen(digest: str = "", **known: object) -> DataMarks:
    mark = FileMark.model_validate({"name": "https://example.com/rows.jsonl", **known})
    return DataMarks(files=(mark,), digest=digest)


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (seen(etag='"a"', bytes=3), seen(etag='"a"', bytes=3), "has the same ETag"),
        (seen(etag='"a"', modified="Mon"), seen(etag='"a"', modified="Tue"), "has the same ETag"),
        (seen(modified="Mon", bytes=3), seen(modified="Mon", bytes=3), "was last modified on Mon"),
        (seen(digest="sha256:aa"), seen(digest="sha256:aa", etag="x"), "has the same bytes"),
        (seen(digest="sha256:aa", etag='"a"'), seen(etag='"a"'), "has the same ETag"),
        (seen(etag='"a"'), seen(digest="sha256:aa", etag='"a"'), "has the same ETag"),
    ],
)
def test_data_with_the_same_marks_is_the_same(before: DataMarks, now: DataMarks, why: str) -> None:
    found = compare(before, now)
    assert found.is_same
    assert found.why.startswith(why)


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (None, seen(), "was not looked at before"),
        (DataMarks(), seen(), "was not looked at before"),
        (DataMarks(digest="sha256:aa"), seen(), "is 1 file(s) where 0 were"),
        (seen(etag='"a"', bytes=3), seen(etag='"a"', bytes=4), "has another size"),
        (seen(etag='"a"'), seen(etag='"b"'), "has another ETag"),
        (seen(etag='"a"'), seen(modified="Mon", bytes=3), "has to be read to know"),
        (seen(modified="Mon"), seen(modified="Mon"), "has to be read to know"),
        (seen(modified="Mon", bytes=3), seen(modified="Tue", bytes=3), "was modified on Tue"),
        (seen(digest="sha256:aa"), seen(digest="sha256:bb"), "has other bytes"),
        (seen(), DataMarks(files=(*seen().files, *seen().files)), "is 2 file(s) where 1 were"),
    ],
)
def test_data_is_not_the_same_as_long_as_nobody_can_say_so(
    before: DataMarks | None, now: DataMarks, why: str
) -> None:
    found = compare(before, now)
    assert not found.is_same
    assert found.why.startswith(why)


def test_data_whose_bytes_were_read_has_their_digest_beside_its_marks() -> None:
    assert seen(etag='"a"').with_digest("sha256:aa") == seen("sha256:aa", etag='"a"')
