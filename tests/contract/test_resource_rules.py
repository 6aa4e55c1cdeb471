"""Rules of `resource` that no sample of tests/crd tells apart."""

import pytest

from tasks.contract.resource_rules import (
    check_expression,
    check_partition,
    check_selects,
    fitting_labels,
    is_reserved_label,
)


@pytest.mark.parametrize(
    "key",
    [
        "kaito.sh/workspace",
        "kaito.sh/workspacenamespace",
        "kaito.sh/ragengine",
        "kaito.sh/ragenginenamespace",
        "karpenter.kaito.sh/workspace-name",
        "karpenter.kaito.sh/workspace-namespace",
        "karpenter.kaito.sh/inferenceset",
        "karpenter.kaito.sh/inferenceset-namespace",
    ],
)
def test_a_label_of_kaitos_selects_nothing(key: str) -> None:
    assert is_reserved_label(key)


@pytest.mark.parametrize(
    "key", ["apps", "kaito.sh/machine-type", "kaito.sh/workspaces", "a.kaito.sh/workspace"]
)
def test_other_labels_select_nodes(key: str) -> None:
    assert not is_reserved_label(key)


@pytest.mark.parametrize(
    "broken",
    [
        {"operator": "In", "values": ["a"]},
        {"key": "", "operator": "In", "values": ["a"]},
        {"key": "a", "operator": "In", "values": "a"},
        {"key": "a", "operator": "In", "values": [1]},
        {"key": "a", "operator": "In", "values": ["a"], "more": 1},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "NotIn", "values": []},
        {"key": "a", "operator": "Exists", "values": ["a"]},
        {"key": "a", "operator": "Like", "values": ["a"]},
        {"key": "a"},
    ],
)
def test_an_expression_that_names_no_label_is_shown_as_it_was_found(
    broken: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match="operator In or NotIn with values") as refused:
        check_expression(broken)
    assert str(refused.value).startswith(str(broken))


def test_every_slice_of_an_nvidia_gpu_is_a_profile() -> None:
    for profile in ("1g.5gb", "1g.10gb", "3g.40gb", "7g.80gb", "7g.141gb", "7g.180gb"):
        check_partition("mig", profile=profile, count=None)


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "In", "values": ["b"]},
        {"key": "a", "operator": "NotIn", "values": ["b", "c"]},
        {"key": "a", "operator": "Exists"},
        {"key": "a", "operator": "DoesNotExist", "values": []},
    ],
)
def test_an_expression_that_chooses_is_taken(expression: dict[str, object]) -> None:
    check_expression(expression)


@pytest.mark.parametrize(
    ("expressions", "labels"),
    [
        ([], {"apps": "x"}),
        ([{"key": "zone", "operator": "In", "values": ["a", "b"]}], {"apps": "x", "zone": "a"}),
        ([{"key": "fast", "operator": "Exists"}], {"apps": "x", "fast": "true"}),
        ([{"key": "apps", "operator": "Exists"}], {"apps": "x"}),
        ([{"key": "old", "operator": "DoesNotExist"}], {"apps": "x"}),
        ([{"key": "zone", "operator": "NotIn", "values": ["a"]}], {"apps": "x"}),
        ([{"key": "kaito.sh/workspace", "operator": "Exists"}], {"apps": "x"}),
    ],
)
def test_a_new_node_gets_labels_by_which_it_is_chosen(
    expressions: list[dict[str, object]], labels: dict[str, str]
) -> None:
    assert fitting_labels({"apps": "x"}, expressions) == labels


def test_labels_that_all_are_reserved_are_refused_and_one_of_one_s_own_is_enough() -> None:
    with pytest.raises(ValueError, match="those select nothing; add a label of your own"):
        check_selects(["kaito.sh/workspace"])
    check_selects(["kaito.sh/workspace", "apps"])
    check_selects([])


@pytest.mark.parametrize(
    ("mode", "profile", "count", "says"),
    [
        ("mig", None, None, "profile None found; .* set profile"),
        ("mig", "3g.40gb", 1, "count is set; .* remove count"),
        ("accelerator", None, None, "no count; .* set count to how many"),
        ("accelerator", "3g.40gb", 1, "profile is set; .* remove profile"),
    ],
)
def test_a_share_that_is_no_whole_is_refused(
    mode: str, profile: str | None, count: int | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        check_partition(mode, profile=profile, count=count)


def test_a_number_of_whole_gpus_is_a_share() -> None:
    check_partition("accelerator", profile=None, count=2)
