"""The gate's word on a candidate, with the reason that a person reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.contract.comparison import Comparison, compare, compare_totals
from tasks.contract.gate import Gate, Metric

_BASE = "the base model"
_BASES = f"{_BASE}'s"

# Of each row, or one number for all of them.
Values = Mapping[Metric, Sequence[float] | float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a candidate may serve, and why.

    reason: one sentence, which names what goes on serving, or what passes.
    with_serving, with_base: None = there was nothing to compare it with.
    rows_digest: of the rows that it was measured on; empty = there were none.
    """

    passed: bool
    reason: str
    with_serving: Comparison | None = None
    with_base: Comparison | None = None
    rows_digest: str = ""


def judge(
    gate: Gate,
    *,
    candidate: Values,
    serving: Values | None,
    base: Values,
    candidate_name: str,
    serving_name: str | None = None,
    faults: Sequence[str] = (),
) -> Verdict:
    """The verdict on values of the same rows in the same order, or on totals.

    The candidate passes where the whole interval of its gain is beyond the gate's margin: of its
    gain over what serves, or over the base model where no adapter serves.

    Args: serving, serving_name: None = no adapter serves.
    faults: what its answers to a few prompts lack (`sanity`), in words; any keeps it out.
    """
    with_base = _compared(candidate, base, gate.metric)
    with_serving = _compared(candidate, serving, gate.metric) if serving is not None else None
    against, whose = (with_serving, "") if serving is not None else (with_base, _BASES)
    has_no_floor = gate.floor and with_base is None
    if against is None or has_no_floor or 0 < against.rows < gate.rows:
        rows = against.rows if against else 0
        problem = f"no difference on {rows} rows is believed, the gate wants {gate.rows}"
    else:
        problem = (
            (f"candidate's answers are not sound: {'; '.join(faults)}" if faults else "")
            or _of_the_floor(gate, with_base)
            or _of_the_margin(gate, against, whose)
        )
    passes = f"{candidate_name} passes: {against.told(whose=whose) if against else ''}"
    return Verdict(
        passed=not problem,
        reason=f"kept {serving_name or _BASE}: {problem}" if problem else passes,
        with_serving=with_serving,
        with_base=with_base,
    )


def _compared(candidate: Values, reference: Values, metric: Metric) -> Comparison | None:
    values, others = candidate.get(metric, ()), reference.get(metric, ())
    if isinstance(values, float) and isinstance(others, float):
        return compare_totals(values, others, metric=metric)
    if isinstance(values, float) or isinstance(others, float) or not (values and others):
        return None
    return compare(values, others, metric=metric)


def _of_the_floor(gate: Gate, with_base: Comparison | None) -> str:
    if with_base is None or not gate.floor or with_base.gain >= 0:
        return ""
    return f"{with_base.told(whose=_BASES)}, which is the floor"


def _of_the_margin(gate: Gate, against: Comparison, whose: str) -> str:
    if against.sure_gain > gate.margin:
        return ""
    said = against.told(whose=whose)
    if against.most_gain < 0:
        return said
    wanted = f"a gain of {gate.margin:g}" if gate.margin else "that it is better"
    return f"{said}, which does not show {wanted}"
