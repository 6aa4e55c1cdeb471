"""A namespace's quotas and limit ranges: kept where they can be, told before anything is made."""

from typing import Any

import pytest

from tasks.contract.resources import Amount, Resources
from tasks.platform.namespace_rules import NamespaceRules, fitted, refusals

GIB = 2**30
Object = dict[str, Any]


def quota(hard: Object, used: Object | None = None, **spec: Any) -> Object:
    return {
        "metadata": {"name": "team"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or {}},
    }


def limit_range(**limits: Object) -> Object:
    return {
        "metadata": {"name": "bounds"},
        "spec": {"limits": [{"type": "Container", **limits}]},
    }


def rules(*found: Object) -> NamespaceRules:
    quotas = [each for each in found if "hard" in each["spec"]]
    return NamespaceRules(quotas=quotas, limit_ranges=[e for e in found if e not in quotas])


def resources() -> Resources:
    return Resources(cpu_cores=Amount(0.5), memory_gib=Amount(2, 8), disk_gib=Amount(4, 100))


def container(name: str = "tune", **amounts: Object) -> Object:
    return {"name": name, "resources": amounts}


def pod(*containers: Object, first: tuple[Object, ...] = (), **spec: Any) -> Object:
    return {
        "metadata": {"name": "tuned-tune-1"},
        "spec": {"initContainers": [*first], "containers": [*containers], **spec},
    }


ASKING = container(
    requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "4Gi", "nvidia.com/gpu": "1"}
)


def told(asking: Object, *found: Object, beside: tuple[Object, ...] = ()) -> list[tuple[str, bool]]:
    return [(d.reason, d.is_final) for d in refusals(asking, rules(*found), beside=beside)]


def test_without_rules_nothing_changes_and_nothing_is_refused() -> None:
    assert fitted(resources(), rules()) == resources()
    assert told(pod(ASKING)) == []


def test_a_cpu_limit_is_set_where_a_quota_counts_it() -> None:
    assert fitted(resources(), rules(quota({"limits.cpu": "8"}))).cpu_cores == Amount(0.5, 2)


def test_a_quota_leaves_a_container_what_it_needs_and_a_quarter_of_all_beyond() -> None:
    of_quota = {
        hard: fitted(resources(), rules(quota({"limits.memory": hard})))
        for hard in ("64Gi", "16Gi", "4Gi")
    }
    assert [each.memory_gib for each in of_quota.values()] == [
        Amount(2, 8),
        Amount(2, 4),
        Amount(2, 2),
    ]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"max": {"memory": "4Gi"}}, Amount(2, 4)),
        ({"max": {"memory": "1Gi"}}, Amount(2, 2)),
        ({"min": {"memory": "3Gi"}}, Amount(3, 8)),
        ({"min": {"memory": "9Gi"}}, Amount(9, 9)),
        ({"maxLimitRequestRatio": {"memory": "1.5"}}, Amount(2, 3)),
        ({"default": {"memory": "1Gi"}}, Amount(2, 8)),
    ],
)
def test_memory_keeps_to_a_limit_range(bounds: Object, expected: Amount) -> None:
    assert fitted(resources(), rules(limit_range(**bounds))).memory_gib == expected


@pytest.mark.parametrize(("default", "most"), [("2", 2), ("100m", 0.5)])
def test_a_limit_that_would_be_given_is_never_less_than_what_is_asked_for(
    default: str, most: float
) -> None:
    given = fitted(resources(), rules(limit_range(default={"cpu": default})))
    assert given.cpu_cores == Amount(0.5, most)


def test_a_pod_that_fits_what_is_left_is_let_in() -> None:
    hard = {"requests.cpu": "4", "requests.memory": "4Gi", "limits.memory": "8Gi", "pods": "2"}
    used = {"requests.cpu": "3", "requests.memory": "2Gi", "limits.memory": "4Gi", "pods": "1"}
    assert told(pod(ASKING), quota(hard, used)) == []


@pytest.mark.parametrize(
    ("name", "hard", "used", "is_final"),
    [
        ("requests.cpu", "4", "3500m", False),
        ("cpu", "500m", "0", True),
        ("limits.memory", "8Gi", "5Gi", False),
        ("requests.nvidia.com/gpu", "1", "1", False),
        ("requests.nvidia.com/gpu", "0", "0", True),
        ("pods", "3", "3", False),
        ("count/pods", "3", "4", False),
    ],
)
def test_a_pod_that_does_not_fit_is_told_for_ever_or_for_now(
    name: str, hard: str, used: str, is_final: bool
) -> None:
    assert told(pod(ASKING), quota({name: hard}, {name: used})) == [("QuotaExceeded", is_final)]


def test_a_refusal_names_the_quota_what_is_left_and_what_to_do() -> None:
    found = quota({"limits.memory": "8Gi"}, {"limits.memory": "5Gi"})
    [refusal] = refusals(pod(ASKING), rules(found), beside=())
    assert refusal.asked == "pod tuned-tune-1 asks for 4Gi of limits.memory"
    assert refusal.found == "ResourceQuota team has 3Gi left of 8Gi"
    for way in ("others have ended", "raise ResourceQuota team", "annotation kaitoflow.io/memory"):
        assert way in refusal.fix


def test_waiting_is_no_fix_where_the_quota_is_smaller_than_the_pod() -> None:
    [refusal] = refusals(pod(ASKING), rules(quota({"limits.memory": "1Gi"})), beside=())
    assert "others" not in refusal.fix


def test_what_will_be_gone_leaves_its_room() -> None:
    full = quota({"limits.memory": "4Gi"}, {"limits.memory": "4Gi"})
    older = pod(ASKING)
    assert told(pod(ASKING), full) == [("QuotaExceeded", False)]
    assert told(pod(ASKING), full, beside=(older,)) == []
    ended = older | {"status": {"phase": "Succeeded"}}
    assert told(pod(ASKING), full, beside=(ended,)) == [("QuotaExceeded", False)]


def test_containers_that_follow_each_other_count_once() -> None:
    four = container(requests={"memory": "4Gi"}, limits={"memory": "4Gi"})
    found = quota({"limits.memory": "5Gi"})
    assert told(pod(four, first=(four, four)), found) == []
    assert told(pod(four, four), found) == [("QuotaExceeded", True)]


def test_a_container_that_names_no_limit_is_refused_where_the_quota_counts_it() -> None:
    bare = container("own", requests={"cpu": "1"})
    [refusal] = refusals(pod(bare), rules(quota({"limits.cpu": "9", "memory": "9Gi"})), beside=())
    assert (refusal.reason, refusal.is_final) == ("PodForbidden", True)
    assert (
        "ResourceQuota team asks every container for limits.cpu and requests.memory"
        in refusal.found
    )


def test_a_limit_ranges_defaults_stand_for_what_a_container_does_not_name() -> None:
    defaults = limit_range(default={"cpu": "1"}, defaultRequest={"cpu": "500m"})
    bare = pod(container("own"))
    counted = {"limits.cpu": "9", "requests.cpu": "9"}
    assert told(bare, quota(counted), defaults) == []
    assert told(bare, quota({"limits.cpu": "500m"}), defaults) == [("QuotaExceeded", True)]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"max": {"memory": "3Gi"}}, "allows at most 3Gi"),
        ({"min": {"memory": "5Gi"}}, "allows at least 5Gi"),
    ],
)
def test_what_a_limit_range_does_not_allow_is_told_with_the_container(
    bounds: Object, said: str
) -> None:
    refusal = refusals(pod(ASKING), rules(limit_range(**bounds)), beside=())[0]
    assert (refusal.reason, refusal.is_final) == ("PodForbidden", True)
    assert "container tune" in refusal.asked
    assert said in refusal.found
    assert "kaitoflow.io/memory" in refusal.fix


HIGH = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}


@pytest.mark.parametrize(
    ("spec", "scope", "is_counted"),
    [
        ({}, {"scopes": ["NotTerminating"]}, True),
        ({}, {"scopes": ["Terminating"]}, False),
        ({"activeDeadlineSeconds": 5}, {"scopes": ["Terminating"]}, True),
        ({}, {"scopes": ["NotBestEffort"]}, True),
        ({}, {"scopes": ["BestEffort"]}, False),
        ({"priorityClassName": "high"}, {"scopeSelector": {"matchExpressions": [HIGH]}}, True),
        ({}, {"scopeSelector": {"matchExpressions": [HIGH]}}, False),
        ({}, {"scopes": ["CrossNamespacePodAffinity"]}, False),
    ],
)
def test_a_quota_counts_the_pods_of_its_scopes(
    spec: Object, scope: Object, is_counted: bool
) -> None:
    found = quota({"pods": "0"}, **scope)
    assert bool(told(pod(ASKING, **spec), found)) == is_counted


def test_a_quota_has_to_have_room_for_all_pods_that_come_at_once() -> None:
    room_for_two = rules(quota({"requests.nvidia.com/gpu": "2"}))
    assert refusals(pod(ASKING), room_for_two, beside=(), alike=2) == []
    [refusal] = refusals(pod(ASKING), room_for_two, beside=(), alike=3)
    assert refusal.reason == "QuotaExceeded"
