"""Every case of every server, again and again, in turns: noise of the machine hits all alike."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.bench.serving.budget import Budget
from tests.bench.serving.cases import Case
from tests.bench.serving.measures import Outcome
from tests.bench.serving.servers import Running

Repetitions = list[Outcome | None]
"""Of one case at one server; None where it was not measured."""


@dataclass
class Measured:
    """What was found so far. left: what was not measured, and why.

    by: server, then case, then repetition.
    """

    by: dict[str, dict[str, Repetitions]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def measure(
    servers: Sequence[Running],
    cases: Sequence[Case],
    *,
    repetitions: int,
    budget: Budget,
    after_each: Callable[[Measured], object],
) -> Measured:
    """Ask all. Args: after_each: is shown what there is after each repetition."""
    by: dict[str, dict[str, Repetitions]] = {
        each.server.name: {case.name: [] for case in cases if each.server.name not in case.without}
        for each in servers
    }
    measured = Measured(by)
    for repetition in range(repetitions):
        first = repetition % len(servers)  # who comes first is another one each time
        for case in cases:
            for running in [*servers[first:], *servers[:first]]:
                if (found := by[running.server.name].get(case.name)) is not None:
                    found.append(_once(running, case, repetition, budget, measured))
        after_each(measured)
    return measured


def _once(
    running: Running, case: Case, repetition: int, budget: Budget, measured: Measured
) -> Outcome | None:
    name = running.server.name
    if why_not := budget.why_not((name, case.name)):
        measured.left.append(f"{name} {case.name}, repetition {repetition + 1}: {why_not}")
        return None
    with running.turn():
        cpu_s, began_s = running.cpu_s, time.monotonic()
        outcome = case.run(running.server, repetition)
        took_s = time.monotonic() - began_s
        budget.note((name, case.name), took_s)
        running.look()
    _tell(f"{budget.spent_s:5.0f} s  {repetition + 1}  {case.name:<18} {name:<18} {took_s:5.1f} s")
    figures = {**outcome.figures, "cpu_s": running.cpu_s - cpu_s}
    return replace(outcome, figures=figures)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
