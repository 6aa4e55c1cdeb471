"""A lease ends by silence that was listened to, and by nothing else."""

from flows.worker.leases import Leases


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def observed(signs: list[object], every_s: float) -> Leases:
    """A lease of 10 s, after one sign of `a` each time."""
    clock = Clock()
    leases = Leases(10, now=clock)
    for sign in signs:
        clock.s += every_s
        leases.observe({"a": sign})
    return leases


def test_a_sign_that_changes_keeps_the_lease() -> None:
    assert not observed(list(range(20)), every_s=2).is_over("a")


def test_a_sign_that_stays_the_same_ends_it() -> None:
    assert not observed([7] * 5, every_s=2).is_over("a")
    assert observed([7] * 6, every_s=2).is_over("a")


def test_one_that_never_gave_a_sign_is_gone_too() -> None:
    assert observed([None] * 6, every_s=2).is_over("a")


def test_silence_while_nobody_looked_does_not_count() -> None:
    assert not observed([7] * 6, every_s=5).is_over("a")


def test_what_is_not_known_is_not_over() -> None:
    assert not observed([7] * 9, every_s=2).is_over("b")


def test_one_that_was_left_out_begins_anew() -> None:
    clock = Clock()
    leases = Leases(10, now=clock)
    for sign in [7] * 5 + [None] + [7] * 3:
        clock.s += 2
        leases.observe({"a": sign} if sign else {})
    assert not leases.is_over("a")
