"""Who judges is read from an annotation, and what cannot be asked is refused with what to write."""

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.judge import JUDGE_ANNOTATION, Judge, judge_of, parse_judge
from tasks.contract.retuning import expect_retunable
from tasks.contract.words import expect_annotations, without_effect
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_manifest

ASKED = {
    "kaitoflow.io/gate": "judge margin 0.05 rows 32",
    JUDGE_ANNOTATION: "https://judge.example.com/v1 strict-7b",
}


def annotated(**changes: str | None) -> Workspace:
    manifest = tuning_manifest()
    given = ASKED | {f"kaitoflow.io/{name}": value for name, value in changes.items()}
    manifest["metadata"]["annotations"] = {k: v for k, v in given.items() if v is not None}
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize(
    "url",
    [
        "https://judge.example.com/v1",
        "https://judge.example.com/v1/",
        "https://judge.example.com/v1/chat/completions",
    ],
)
def test_a_judge_is_its_url_and_a_model(url: str) -> None:
    judge = Judge(url="https://judge.example.com/v1", model="strict-7b")
    assert parse_judge(f" {url}  strict-7b\n") == judge


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it has 0 words, not two"),
        ("https://judge.example.com/v1", "it has 1 words, not two"),
        ("file:///etc strict", "none of http or https"),
        ("https:///v1 strict", "none of http or https"),
        ("https://[::1/v1 strict", "cannot be read"),
        ("https://host:port/v1 strict", "cannot be read"),
    ],
)
def test_any_other_text_is_refused_with_what_to_write(text: str, found: str) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        parse_judge(text)
    assert found in refused.value.found
    assert '"https://judge.example.com/v1 MODEL"' in refused.value.fix


@pytest.mark.parametrize("part", ["https://user:canary@h/v1", "https://h/v1?key=canary"])
def test_what_may_be_secret_in_an_address_is_refused_and_not_repeated(part: str) -> None:
    with pytest.raises(InvalidWorkspace, match="a password, a query or a fragment") as refused:
        parse_judge(f"{part} strict")
    assert "canary" not in str(refused.value)


def test_a_gate_that_asks_a_judge_needs_one() -> None:
    workspace = annotated()
    expect_annotations(workspace)
    expect_retunable(workspace)
    assert [*without_effect(workspace)] == []
    with pytest.raises(InvalidWorkspace, match="nobody says which model judges"):
        expect_retunable(annotated(judge=None))
    with pytest.raises(InvalidWorkspace, match="it has 1 words"):
        expect_retunable(annotated(judge="strict"))


@pytest.mark.parametrize("gate", ["loss margin 0.02", None])
def test_a_judge_whom_no_gate_asks_is_told_to_do_nothing(gate: str | None) -> None:
    workspace = annotated(gate=gate)
    assert judge_of(workspace.metadata.annotations) is None
    told = f"annotation {JUDGE_ANNOTATION}: kaitoflow.io/gate is not judge"
    assert [*without_effect(workspace)] == [told]


def test_a_judge_is_told_by_its_model_and_where_it_is() -> None:
    assert str(Judge(url="https://judge.example.com/v1", model="strict-7b")) == (
        "strict-7b at https://judge.example.com/v1"
    )
