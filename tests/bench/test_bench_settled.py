"""Which figures of Workspaces that are kept true are good enough."""

from typing import Any

import pytest

from tests.bench.bench_settled import out_of_bounds


def measured(**changes: Any) -> dict[str, Any]:
    """Good enough but for the changes."""
    soon = {"Service": {"samples": 20, "p50": 1.0, "most": 1.2}}
    figures = {"workspaces": 200, "writes": 0, "back_s": soon, "told_s": soon}
    return {**figures, "cores": {"watcher": 0.011}, **changes}


def test_what_is_soon_quiet_and_cheap_is_within_all_bounds() -> None:
    assert out_of_bounds(measured()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"back_s": {"Service": {"most": 5.4}}},
            "Service deleted: back after 5.4 s, to be within 5 s",
        ),
        (
            {"told_s": {"StatefulSet": {"most": 60.0}}},
            "StatefulSet deleted: told after 60.0 s, to be within 5 s",
        ),
        ({"writes": 3}, "3 writes while nothing happened, to be none"),
        ({"cores": {"watcher": 0.05}}, "the watcher took 0.05 cores, to be less than 0.050"),
        ({"workspaces": 20}, "the watcher took 0.011 cores, to be less than 0.005"),
    ],
)
def test_a_figure_out_of_its_bound_is_told_with_it(changes: dict[str, Any], said: str) -> None:
    assert out_of_bounds(measured(**changes)) == [said]
