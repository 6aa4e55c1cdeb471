"""Rules of `resource` that no sample of tests/crd tells apart."""

import pytest

from tasks.contract.resource_rules import check_expression, check_partition, is_reserved_label


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
    ],
)
def test_an_expression_that_names_no_label_is_shown_as_it_was_found(
    broken: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match="use operator In with one value") as refused:
        check_expression(broken)
    assert str(refused.value).startswith(str(broken))


def test_every_slice_of_an_nvidia_gpu_is_a_profile() -> None:
    for profile in ("1g.5gb", "1g.10gb", "3g.40gb", "7g.80gb", "7g.141gb", "7g.180gb"):
        check_partition("mig", profile=profile, count=None)
