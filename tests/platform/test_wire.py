"""What a pod's words say of it."""

from tasks.platform.wire import Seen, last_standing


def pod(name: str, **meta: str) -> Seen:
    return {"metadata": {"name": name, **meta}}


def test_a_pod_that_was_deleted_is_passed_over_for_one_that_stands() -> None:
    leaving = pod("new", deletionTimestamp="2026-01-01T00:00:00Z")
    assert last_standing([pod("old"), leaving]) == pod("old")


def test_of_pods_that_are_all_leaving_none_stands() -> None:
    assert last_standing([pod("gone", deletionTimestamp="2026-01-01T00:00:00Z")]) == {}


def test_the_last_of_several_is_meant() -> None:
    assert last_standing([pod("old"), pod("new")]) == pod("new")
