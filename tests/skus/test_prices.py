"""A price has a day and a source, and may be a person's own."""

from pathlib import Path

import pytest

from tasks.contract.errors import InvalidPriceTable
from tasks.skus import catalogue
from tasks.skus.prices import price_table


def test_prices_are_known_for_machines_of_the_catalogue_only() -> None:
    table = price_table()
    assert {name.lower() for name in table.per_hour_usd} <= set(catalogue())
    assert table.price_per_hour("standard_NC24ads_A100_v4", "on-demand") == 3.673
    assert table.price_per_hour("Standard_NC24ads_A100_v4", "spot") is None


def test_a_person_s_own_table_replaces_ours(tmp_path: Path) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text("dated: '2027-01-01'\nsource: contract\nper_hour_usd: {a.b: {spot: 0.5}}")
    table = price_table(own)
    assert (table.dated, table.price_per_hour("A.B", "spot")) == ("2027-01-01", 0.5)


def test_a_table_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text("dated: x\nsource: y\nper_hour_usd: {a: {on_demand: -1}}")
    with pytest.raises(InvalidPriceTable, match="prices.yaml; .*greater than 0.*; write it as"):
        price_table(own)
