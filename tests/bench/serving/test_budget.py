from tests.bench.serving.budget import Budget

WORK = ("ours", "16")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_what_is_short_is_done_again_while_there_is_time() -> None:
    budget = Budget(100, Clock())
    budget.note(WORK, 20)
    assert budget.why_not(WORK) == ""


def test_what_would_end_too_late_is_not_begun() -> None:
    budget = Budget(100, clock := Clock())
    budget.note(WORK, 20)
    clock.now_s = 81
    assert budget.why_not(WORK) == "no time: 81 of 100 s are spent"
    assert budget.why_not(("another", "16")) == ""


def test_what_takes_long_is_done_once() -> None:
    budget = Budget(1000, Clock())
    budget.note(WORK, 90)
    assert budget.why_not(WORK) == "took 90 s, and is not repeated over 60 s"
