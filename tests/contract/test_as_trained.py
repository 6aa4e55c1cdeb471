"""What an adapter's model saw at the end of its training lies beside it and is read again."""

import json
from pathlib import Path

import pytest

from tasks.contract.as_trained import FILE, AsTrained, Seen, read_as_trained

SEEN = AsTrained(
    base_model="team/base",
    base_revision="main",
    dtype="bfloat16",
    is_chat=True,
    is_dated=False,
    text_ids=((1, 2), (3,)),
    seen=(Seen(prompt="2, 4", ids=(1, 2), likeliest=((7, -0.5), (8, -1.25))),),
)


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(SEEN.written()))
    assert read_as_trained(tmp_path) == SEEN


def test_beside_an_adapter_of_others_there_is_nothing(tmp_path: Path) -> None:
    assert read_as_trained(tmp_path) is None


def test_what_cannot_be_read_is_no_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ValueError, match="base_model"):
        read_as_trained(tmp_path)
