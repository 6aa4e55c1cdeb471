"""Rows that stay to measure on are one address, or none."""

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION, evaluation_url

URL = "https://example.com/evaluation.jsonl"


def test_the_address_is_what_the_annotation_says_and_else_there_is_none() -> None:
    assert evaluation_url({EVALUATION_DATA_ANNOTATION: f" {URL} "}) == URL
    assert evaluation_url({}) is None


@pytest.mark.parametrize(("text", "count"), [("", 0), (f"{URL} {URL}", 2)])
def test_no_address_and_two_are_refused_with_what_to_write(text: str, count: int) -> None:
    told = f"it names {count} addresses, not one; write the address of one file"
    with pytest.raises(InvalidWorkspace, match=told):
        evaluation_url({EVALUATION_DATA_ANNOTATION: text})
