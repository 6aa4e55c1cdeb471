"""What the figures of a tuning say, and how sure they are."""

import pytest

from tasks.contract.programs.tuning import AS_SERVED, HeldOut, WeightCounts

WORSE = ", which is worse than before tuning"


@pytest.mark.parametrize(
    ("rows", "after", "low", "high", "told"),
    [
        (30, 2.0, 0.8, 1.2, ""),
        (3, 2.0, 0.8, 1.2, " (95 % interval of the gain +0.800 to +1.200)"),
        (30, 2.9, -0.1, 0.3, " (95 % interval of the gain -0.100 to +0.300: that may be chance)"),
        (30, 2.5, 0.0, 0.9, " (95 % interval of the gain +0.000 to +0.900: that may be chance)"),
        (
            *(30, 3.4, -0.9, 0.0),
            f"{WORSE} (95 % interval of the gain -0.900 to +0.000: that may be chance)",
        ),
        (20, 2.0, 0.8, 1.2, ""),
        (19, 2.0, 0.8, 1.2, " (95 % interval of the gain +0.800 to +1.200)"),
        (1, 2.0, None, None, " (one row shows nothing)"),
        (1, 3.5, None, None, f"{WORSE} (one row shows nothing)"),
        (30, 3.5, None, -0.1, WORSE),
        (30, 3.5, -0.1, None, WORSE),
        (
            *(30, 3.5, -0.7, -0.3),
            f"{WORSE} (95 % interval of the gain -0.700 to -0.300)",
        ),
    ],
)
def test_how_sure_a_figure_is_is_told_where_it_is_in_doubt(
    rows: int, after: float, low: float | None, high: float | None, told: str
) -> None:
    held_out = HeldOut(rows=rows, loss_before=3.0, loss_after=after, gain_low=low, gain_high=high)
    assert held_out.verdict == told


@pytest.mark.parametrize(
    ("base", "told"),
    [("", ""), (AS_SERVED, ""), ("in 4 bits", ", measured on weights that are in 4 bits")],
)
def test_weights_that_are_not_those_that_are_served_are_told(base: str, told: str) -> None:
    held_out = HeldOut(rows=30, loss_before=3.0, loss_after=3.0, base=base)
    assert held_out.verdict == told


@pytest.mark.parametrize(("constant", "is_told"), [(2.0, True), (2.001, False), (None, False)])
def test_an_adapter_that_ignores_the_questions_is_told(
    constant: float | None, is_told: bool
) -> None:
    held_out = HeldOut(rows=30, loss_before=3.0, loss_after=2.0, loss_constant=constant)
    words = ", no better than one answer to every question (2.000)"
    assert held_out.verdict == (words if is_told else "")


@pytest.mark.parametrize(("right", "is_told"), [(6, True), (7, False)])
def test_one_that_is_right_more_often_than_one_answer_has_learned_what_is_asked(
    right: int, is_told: bool
) -> None:
    held_out = HeldOut(
        rows=40,
        loss_before=9.0,
        loss_after=1.0,
        loss_constant=0.9,
        right_after=right,
        right_constant=6,
    )
    assert held_out.ignores_questions == is_told


@pytest.mark.parametrize(
    ("after", "high", "is_worse", "is_surely"),
    [
        (2.9, 0.3, False, False),
        (3.0, 0.0, False, False),
        (3.1, 0.1, True, False),
        (3.1, None, True, False),
        (3.1, 0.0, True, False),
        (3.1, -0.1, True, True),
    ],
)
def test_a_loss_that_rose_is_worse_and_surely_so_below_its_whole_interval(
    after: float, high: float | None, is_worse: bool, is_surely: bool
) -> None:
    held_out = HeldOut(rows=30, loss_before=3.0, loss_after=after, gain_high=high)
    assert (held_out.is_worse, held_out.is_surely_worse) == (is_worse, is_surely)


def test_weights_are_told_in_shares_of_the_model_and_bits_only_where_some_are_quantised() -> None:
    counts = {"total": 1000, "bits": 4, "layers": 7, "adapted": 250, "trained": 5}
    adapters = "adapters on 7 layers, 25 % of the weights; 0.5 % as many are trained"
    assert str(WeightCounts(quantized=789, **counts)) == f"4-bit: 78.9 % of the weights; {adapters}"
    assert str(WeightCounts(quantized=0, **counts)) == adapters
    told = str(WeightCounts(quantized=0, bare_experts=900, **counts))
    assert "of the weights; none on its experts (90 % of the weights); " in told
