"""What a plan says of time and money, word for word."""

from typing import Any

import pytest

from tasks.contract.artifacts import Check, Price
from tasks.contract.errors import InvalidPriceTable
from tasks.contract.training_policy import POLICY_ANNOTATION
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.offers import Offer
from tasks.plan.cost import budget, price, price_of, time
from tasks.plan.findings import Findings
from tasks.skus.prices import PriceTable
from tests.builders import tuning_manifest

TABLE = PriceTable.model_validate(
    {
        "dated": "2026-01-31",
        "source": "made up",
        "per_hour_usd": {
            "small": {"on_demand": 1.5, "spot": 0.25},
            "large": {"on_demand": 1234.5},
        },
    }
)
PRICED = Findings(prices=TABLE)
SMALL = Offer(instance_type="small")
SPOT = Offer(instance_type="small", capacity_type="spot")
LARGE = Offer(instance_type="large")
UNPRICED = Offer(instance_type="rare", capacity_type="spot")
SERVED, TUNED = "true", "false"


def workspace(serve: str = TUNED, **resource: Any) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": serve}
    manifest["resource"] |= resource
    return parse_workspace(manifest, source="test")


def told(*offers: Offer, serve: str = TUNED, seconds: tuple[float, float] | None = None) -> Check:
    asked = workspace(serve)
    cost = price_of(asked, offers, PRICED, seconds=seconds)
    return price(asked, offers, PRICED, cost)


@pytest.mark.parametrize(
    ("offers", "detail"),
    [
        ((SMALL,), "$1.50 an hour on-demand (small), spot $0.25; prices of 2026-01-31"),
        ((SPOT,), "$0.25 an hour spot (small), on-demand $1.50; prices of 2026-01-31"),
        ((LARGE,), "$1,234.50 an hour on-demand (large), spot not known; prices of 2026-01-31"),
        ((UNPRICED, SPOT, LARGE), "$0.25 an hour spot (small), on-demand $1.50; prices of 2026"),
    ],
)
def test_the_first_offer_with_a_price_is_told_beside_the_other_way_to_pay(
    offers: tuple[Offer, ...], detail: str
) -> None:
    check = told(*offers)
    assert (check.name, check.result, check.fix) == ("price", "ok", "")
    assert check.detail.startswith(detail)


def test_the_run_s_price_comes_first_where_its_duration_is_known() -> None:
    assert told(SMALL, seconds=(1800, 7200)).detail == (
        "about $0.75 to $3.00 for the run, $1.50 an hour on-demand (small), spot $0.25; "
        "prices of 2026-01-31"
    )


def test_who_serves_is_told_that_the_node_stays() -> None:
    assert told(SMALL, serve=SERVED).detail == (
        "$1.50 an hour on-demand (small), spot $0.25, held as long as the model is served; "
        "prices of 2026-01-31"
    )


def test_machines_without_a_price_are_each_named_once() -> None:
    assert told(UNPRICED, UNPRICED, Offer(instance_type="strange")) == Check(
        name="price",
        result="warn",
        detail="the price table has none for rare, strange",
        fix="give a table of your own (KAITOFLOW_PRICE_TABLE)",
    )


def test_a_table_that_cannot_be_read_is_told_and_stops_nobody() -> None:
    broken = InvalidPriceTable("prices were asked for", "no such file", "name another")
    findings = Findings(prices=broken)
    cost = price_of(workspace(), [SMALL], findings, seconds=None)
    assert cost is None
    assert price(workspace(), [SMALL], findings, cost) == Check(
        name="price",
        result="warn",
        detail="prices were asked for; no such file",
        fix="name another",
        reason="InvalidPriceTable",
    )


def of_budget(
    *, price_per_hour: float | None = 2.5, makes_nodes: bool = True, seconds: float = 60
) -> Check | None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {POLICY_ANNOTATION: "budget 5 USD"}
    cost = price_per_hour and Price(
        instance_type="small", capacity_type="spot", per_hour=price_per_hour, dated="2026-01-31"
    )
    return budget(
        parse_workspace(manifest, source="test"),
        cost or None,
        makes_nodes=makes_nodes,
        seconds=(seconds, 2 * seconds),
    )


def test_a_budget_is_told_with_the_time_that_it_buys() -> None:
    told = "$5.00 buys 2 h of training on small ($2.50 an hour spot)"
    assert of_budget() == Check(name="budget", result="ok", detail=told)
    assert of_budget(seconds=3 * 3600) == Check(
        name="budget",
        result="warn",
        detail=f"{told}, and the run is to take 3 h at least",
        fix="allow more, or train fewer rows or epochs",
    )


@pytest.mark.parametrize("hours", [1.5, 2])
def test_a_budget_is_enough_that_buys_the_shortest_time(hours: float) -> None:
    check = of_budget(seconds=hours * 3600)
    assert check
    assert check.result == "ok"


@pytest.mark.parametrize(
    ("without", "why"),
    [
        ({"makes_nodes": False}, "is not made for it, and costs what it costs anyway"),
        ({"price_per_hour": None}, "has no price"),
    ],
)
def test_a_budget_without_a_price_has_no_effect_and_says_so(
    without: dict[str, Any], why: str
) -> None:
    told = of_budget(**without)
    assert told
    assert (told.result, told.detail) == ("warn", f"$5.00 has no effect: the machine {why}")


def test_who_names_no_budget_hears_of_none() -> None:
    assert budget(workspace(), None, makes_nodes=True, seconds=None) is None


def test_without_a_table_there_is_no_price() -> None:
    assert price_of(workspace(), [SMALL], Findings(), seconds=(1, 2)) is None


def test_the_price_of_a_run_is_that_of_all_its_nodes() -> None:
    own = {
        "metadata": {"name": "pods"},
        "resource": {"count": 2},
        "inference": {"template": {"spec": {}}},
    }
    cost = price_of(
        parse_workspace(own, source="test"), [UNPRICED, SPOT], PRICED, seconds=(3600, 7200)
    )
    assert cost
    assert cost.model_dump() == {
        "instance_type": "small",
        "capacity_type": "spot",
        "per_hour": 0.5,
        "run": (0.5, 1.0),
        "dated": "2026-01-31",
    }


@pytest.mark.parametrize(
    ("seconds", "check"),
    [
        (None, Check(name="time", result="ok", detail="known once the dataset is counted")),
        ((90, 3600 * 5), Check(name="time", result="ok", detail="about 2 min to 5 h")),
        (
            (3600 * 24, 3600 * 72),
            Check(
                name="time",
                result="warn",
                detail="about 24 h to 3 days",
                fix="tune on a GPU, choose a smaller preset, or set TrainingArguments.max_steps",
            ),
        ),
    ],
)
def test_the_shortest_and_the_longest_time_are_told(
    seconds: tuple[float, float] | None, check: Check
) -> None:
    assert time(seconds) == check
