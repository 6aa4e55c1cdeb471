"""What each reason means and what a person does about it: at hand without a network. Pure."""

import functools
from dataclasses import dataclass
from importlib.resources import files

import yaml

from tasks.contract.errors import Refused, reasons


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A reason of a condition, in a person's words; fate: what becomes of the run."""

    reason: str
    meaning: str
    fate: str
    fix: str


@functools.cache
def explanations() -> dict[str, Explanation]:
    """Every reason of `errors.py` by its name, in the alphabet's order."""
    fixes: dict[str, str] = yaml.safe_load(
        files(__package__).joinpath("fixes.yaml").read_text(encoding="utf-8")
    )
    return {
        name: Explanation(
            reason=name,
            meaning=(kind.__doc__ or "").partition("\n")[0],
            fate=f"{'refused' if issubclass(kind, Refused) else 'failed'}"
            f"{', looked at again' if kind.may_pass else ''}",
            fix=fixes[name],
        )
        for name, kind in sorted(reasons().items())
    }


def explanations_page() -> str:
    """All of them as docs/reasons.md."""
    rows = (
        f"| `{each.reason}` | {each.fate} | {each.meaning} | {each.fix} |"
        for each in explanations().values()
    )
    return "\n".join([_HEAD, *rows, ""])


_HEAD = """# Reasons, what they mean, and what to do

Conditions, Events and messages name these; `kaitoflow explain REASON` says the same where you are.
What is refused has to be mended by a person, and was refused before anything was spent. What is
looked at again is tried again by itself, on a cluster, ever more rarely. Reasons that tell of no
trouble stand in [the chart's page](../deployments/chart/REASONS.md).

| reason | | it means | what to do |
| --- | --- | --- | --- |"""
