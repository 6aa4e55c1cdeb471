"""How long the run takes, and what it costs. Pure."""

from collections.abc import Sequence

from tasks.contract.artifacts import Check, Price
from tasks.contract.errors import InvalidWorkspace, KaitoflowError
from tasks.contract.training_policy import POLICY_ANNOTATION, parse_training_policy
from tasks.contract.units import duration
from tasks.contract.workspace import Workspace
from tasks.estimate import cost_usd
from tasks.nodes.offers import CapacityType, Offer
from tasks.plan.check import from_error
from tasks.plan.findings import Findings
from tasks.plan.size import Range

_SLOW_SECONDS = 24 * 3600


def time(seconds: Range | None) -> Check:
    """The shortest and the longest expected duration."""
    if seconds is None:
        return Check(name="time", result="ok", detail="known once the dataset is counted")
    detail = f"about {duration(seconds[0])} to {duration(seconds[1])}"
    if seconds[0] < _SLOW_SECONDS:
        return Check(name="time", result="ok", detail=detail)
    fix = "tune on a GPU, choose a smaller preset, or set TrainingArguments.max_steps"
    return Check(name="time", result="warn", detail=detail, fix=fix)


def budget(
    workspace: Workspace, cost: Price | None, *, makes_nodes: bool, seconds: Range | None
) -> Check | None:
    """What a training's budget buys; None where it has none, or none that can be read.

    Args: cost: of the machine that it is to be trained on. seconds: that the whole run is to take.
    """
    try:
        policy = parse_training_policy(workspace.metadata.annotations.get(POLICY_ANNOTATION))
    except InvalidWorkspace:
        return None  # told by the line on the parameters
    if policy.budget_usd is None:
        return None
    asked = f"${policy.budget_usd:,.2f}"
    if not makes_nodes or cost is None:
        why = (
            "has no price" if makes_nodes else "is not made for it, and costs what it costs anyway"
        )
        return Check(
            name="budget",
            result="warn",
            detail=f"{asked} has no effect: the machine {why}",
            fix=f'write a time into {POLICY_ANNOTATION}, as "time 2h"',
        )
    bought_s = policy.within_budget(cost.per_hour).time_s
    assert bought_s is not None
    detail = (
        f"{asked} buys {duration(policy.budget_usd / cost.per_hour * 3600)} of training on "
        f"{cost.instance_type} (${cost.per_hour:,.2f} an hour {cost.capacity_type})"
    )
    if seconds is None or bought_s >= seconds[0]:
        return Check(name="budget", result="ok", detail=detail)
    return Check(
        name="budget",
        result="warn",
        detail=f"{detail}, and the run is to take {duration(seconds[0])} at least",
        fix="allow more, or train fewer rows or epochs",
    )


def price_of(
    workspace: Workspace, offers: Sequence[Offer], findings: Findings, *, seconds: Range | None
) -> Price | None:
    """What the first offer with a price costs; None where there is none, or no table."""
    table = findings.prices
    if table is None or isinstance(table, KaitoflowError):
        return None
    for offer in offers:
        per_hour = table.price_per_hour(offer.instance_type, offer.capacity_type)
        if per_hour is None:
            continue
        count = workspace.resource.count
        run = tuple(cost_usd(s, price_per_hour=per_hour, nodes=count) for s in seconds or ())
        return Price.model_validate(
            {
                "instance_type": offer.instance_type,
                "capacity_type": offer.capacity_type,
                "per_hour": per_hour * count,
                "run": run or None,
                "dated": table.dated,
            }
        )
    return None


def price(
    workspace: Workspace, offers: Sequence[Offer], findings: Findings, cost: Price | None
) -> Check:
    """The price of the first offer, beside the other way to pay for it."""
    table = findings.prices
    if isinstance(table, KaitoflowError):
        return from_error("price", table, result="warn")
    if cost is None or table is None:
        names = ", ".join(dict.fromkeys(offer.instance_type for offer in offers))
        return Check(
            name="price",
            result="warn",
            detail=f"the price table has none for {names}",
            fix="give a table of your own (KAITOFLOW_PRICE_TABLE)",
        )
    parts = [f"${cost.per_hour:,.2f} an hour {cost.capacity_type} ({cost.instance_type})"]
    if cost.run:
        parts.insert(0, f"about ${cost.run[0]:,.2f} to ${cost.run[1]:,.2f} for the run")
    other: CapacityType = "on-demand" if cost.capacity_type == "spot" else "spot"
    per_hour = table.price_per_hour(cost.instance_type, other)
    parts.append(f"{other} ${per_hour:,.2f}" if per_hour else f"{other} not known")
    if workspace.is_served:
        parts.append("held as long as the model is served")
    detail = f"{', '.join(parts)}; prices of {cost.dated}"
    return Check(name="price", result="ok", detail=detail)
