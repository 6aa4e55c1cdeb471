"""A Workspace's machines cost from their claim to their return, each at its own price."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.contract.held_cost import Cost, HeldMachine

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def machine(name: str = "a", **changes: Any) -> HeldMachine:
    fields = {
        "name": name,
        "instance_type": "Standard_NC48ads_A100_v4",
        "capacity_type": "on-demand",
        "gpus": 2,
        "price_per_hour": 7.0,
        "since": "2026-01-01T12:00:00Z",
    }
    return HeldMachine.model_validate(fields | changes)


def after(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def test_a_machine_that_is_held_costs_more_by_the_hour() -> None:
    cost = Cost().holding([machine()], after(0.5))
    assert (cost.gpu_hours, cost.price_usd) == (1.0, 3.5)
    later = cost.at(after(2))
    assert (later.gpu_hours, later.price_usd, later.as_of) == (4.0, 14.0, "2026-01-01T14:00:00Z")


def test_one_that_went_back_costs_no_more() -> None:
    cost = Cost().holding([machine()], after(0.5)).holding([], after(1)).at(after(9))
    assert (cost.gpu_hours, cost.price_usd) == (2.0, 7.0)
    assert "an hour now" not in str(cost)


def test_a_machine_that_took_a_lost_one_s_place_adds_to_it() -> None:
    second = machine(since="2026-01-01T14:00:00Z", capacity_type="spot", price_per_hour=1.0)
    cost = Cost().holding([machine()], after(1)).holding([second], after(2)).at(after(3))
    assert cost.price_usd == 2 * 7.0 + 1 * 1.0
    assert str(cost) == "$15.00 for 6.000 GPU-hours, $1.00 an hour now"


def test_hours_and_money_are_told_to_the_thousandth_and_the_cent() -> None:
    cost = Cost().holding([machine()], START + timedelta(seconds=100))
    assert (cost.gpu_hours, cost.price_usd) == (0.056, 0.19)


def test_to_be_told_again_changes_nothing() -> None:
    once = Cost().holding([machine()], after(1))
    assert once.holding([machine()], after(1)) == once


def test_without_a_price_the_hours_are_told_and_how_to_give_one() -> None:
    cost = Cost().holding([machine(price_per_hour=None)], after(1))
    assert cost.price_usd is None
    assert str(cost) == (
        "price unknown for 2.000 GPU-hours "
        "(no price of Standard_NC48ads_A100_v4: set KAITOFLOW_PRICE_TABLE)"
    )


def test_who_holds_nothing_has_no_cost_to_tell() -> None:
    assert str(Cost()) == ""


def test_each_look_at_a_machine_that_went_back_finds_the_same_cost() -> None:
    gone = Cost().holding([machine()], after(0.5)).holding([], after(1))
    looked = gone
    for hours in (2, 3, 9):
        looked = looked.holding([], after(hours))
    assert (looked.gpu_hours, looked.price_usd) == (gone.gpu_hours, gone.price_usd) == (2.0, 7.0)
    assert looked.machines == gone.machines


def test_a_machine_that_says_nothing_of_its_gpus_costs_money_and_no_gpu_hours() -> None:
    fields = machine().model_dump(exclude={"gpus"})
    cost = Cost().holding([HeldMachine.model_validate(fields)], after(1))
    assert (cost.gpu_hours, cost.price_usd) == (0.0, 7.0)


def test_clocks_that_disagree_make_no_cost_of_less_than_nothing() -> None:
    assert machine().hours(after(-1)) == 0
    assert machine(until="2026-01-01T11:00:00Z").hours(after(5)) == 0


def test_one_unknown_price_of_several_makes_the_sum_unknown_and_is_named() -> None:
    unknown = machine("b", price_per_hour=None, instance_type="rare")
    cost = Cost().holding([machine(), unknown], after(1))
    assert cost.price_usd is None
    assert str(cost) == (
        "price unknown for 4.000 GPU-hours (no price of rare: set KAITOFLOW_PRICE_TABLE)"
    )


def test_a_cost_is_written_in_kubernetes_spelling_and_read_back() -> None:
    cost = Cost().holding([machine()], after(1))
    written = cost.model_dump(mode="json", by_alias=True)
    assert written["machines"][0]["pricePerHour"] == 7.0
    assert Cost.model_validate(written) == cost
