"""Quantities are read as the API server writes them."""

import pytest

from tasks.contract.quantity import parse_quantity, quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2.0),
        ("500m", 0.5),
        ("3920m", 3.92),
        ("16Gi", 16 * 2**30),
        ("16406544Ki", 16406544 * 2**10),
        ("1.5G", 1.5e9),
        ("1e3", 1000.0),
        ("12E", 12e18),
        ("5n", 5e-9),
        ("5u", 5e-6),
        ("5k", 5e3),
        ("5M", 5e6),
        ("5T", 5e12),
        ("5P", 5e15),
        ("5Mi", 5 * 2**20),
        ("5Ti", 5 * 2**40),
        ("5Pi", 5 * 2**50),
        ("5Ei", 5 * 2**60),
        ("-1", -1.0),
        (" 2 ", 2.0),
        (4, 4.0),
    ],
)
def test_a_quantity_is_the_number_it_stands_for(text: str, number: float) -> None:
    assert parse_quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "Gi", "16 Gi", "1Q", "one", "1e"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity; write a number such as"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.5, "500m"), (3, "3"), (1024, "1024"), (2**20, "1Mi"), (1.5 * 2**30, "1.5Gi")],
)
def test_a_number_is_said_as_a_quantity(number: float, text: str) -> None:
    assert quantity(number) == text
    assert parse_quantity(text) == number
