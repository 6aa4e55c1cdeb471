"""What a run costs follows from how long its nodes are held."""

from tasks.estimate import cost_usd


def test_each_node_costs_for_the_seconds_that_it_is_held() -> None:
    assert cost_usd(1800, price_per_hour=3.0) == 1.5
    assert cost_usd(1800, price_per_hour=3.0, nodes=2) == 3.0
