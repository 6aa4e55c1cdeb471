"""YAML is read whole or refused with the line: no key is lost, no value read as another."""

import pytest
import yaml

from tasks.contract.strict_yaml import load_document, load_documents, problem_in


def problem(text: str) -> str:
    with pytest.raises(yaml.YAMLError) as refused:
        load_document(text)
    return problem_in(refused.value)


def test_plain_documents_are_read_in_order() -> None:
    assert load_documents("a: 1\n---\nb: [2]\n---\n") == [{"a": 1}, {"b": [2]}, None]
    assert load_document("a: {b: 1}") == {"a": {"b": 1}}
    assert load_document("") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a is given twice, first in line 1"),
        ("x:\n  a: 1\n  a: 1", "line 3: a is given twice, first in line 2"),
        ("{a: 1, a: 2}", "line 1: a is given twice, first in line 1"),
        ("a: 2026-13-01", "line 1: '2026-13-01' cannot be read: month must be in 1..12"),
        ("a: 1\n---\nb: 1", "there are several documents, divided by ---"),
        ("[" * 1000, "it is nested too deep"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
    ],
)
def test_what_would_be_lost_is_refused_with_its_line(text: str, said: str) -> None:
    assert problem(text) == said


def test_keys_of_two_types_and_keys_that_a_merge_brings_are_no_duplicates() -> None:
    assert load_document("1: a\n'1': b") == {1: "a", "1": "b"}
    assert load_document("base: &b {a: 1, c: 3}\nx: {<<: *b, a: 2}")["x"] == {"a": 2, "c": 3}
    assert load_document("b1: &b {a: 1}\nb2: &c {d: 1}\nx: {<<: *b, <<: *c}")["x"]["d"] == 1
