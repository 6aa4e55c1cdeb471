"""What a person reads of leaks: their price, whether they may be removed, and what to run."""

from dataclasses import replace
from datetime import UTC, datetime

from flows.commands.leaks import leaks_table
from tasks.nodes.garbage.leaks import Leak, LeakKind

LEAK = Leak(
    kind=LeakKind.NO_CLAIM,
    name="ws1",
    workspace="team/tuned",
    instance_type="Standard_NC24ads_A100_v4",
    capacity_type="spot",
    since=datetime.now(UTC),
    price_per_hour=1.5,
)
REMOVE = "remove with: kaitoflow leaks --collect"


def verdict(*leaks: Leak) -> str:
    return leaks_table(leaks, is_wide=False).splitlines()[-1]


def test_without_leaks_it_says_so() -> None:
    assert leaks_table((), is_wide=False) == "0 leaks\n"


def test_prices_are_summed_up() -> None:
    assert verdict(LEAK, LEAK) == f"2 leaks, $3.00 per hour; {REMOVE}"


def test_a_price_that_is_not_known_is_not_taken_for_nothing() -> None:
    unknown = replace(LEAK, price_per_hour=None, since=None)
    assert verdict(LEAK, unknown) == f"2 leaks, at least $1.50 per hour; {REMOVE}"
    assert leaks_table([unknown], is_wide=False).splitlines()[1].split()[-2:] == ["unknown"] * 2


def test_what_is_kept_is_told_with_the_way_to_its_reason() -> None:
    kept = replace(LEAK, kept_because="its node is Ready and runs pod team/work")
    assert (
        verdict(kept) == "1 leak, $1.50 per hour; 1 kept, the reason is in: kaitoflow leaks -o wide"
    )
    assert leaks_table([kept], is_wide=True).splitlines()[1].endswith(kept.kept_because)
