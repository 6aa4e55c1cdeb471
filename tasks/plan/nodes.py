"""The nodes: which kinds of machine fit, which are there, and what the cloud would let us have."""

from collections.abc import Sequence

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    CloudUnavailable,
    InsufficientQuota,
    KaitoflowError,
    ModelDoesNotFit,
    UnknownInstanceType,
)
from tasks.contract.workspace import Workspace
from tasks.nodes.need import need_of
from tasks.nodes.offers import Offer, offers_of
from tasks.nodes.selection import select_nodes
from tasks.plan.check import not_told
from tasks.plan.findings import Findings
from tasks.plan.size import Fit, Run, fit_on, serving_lacks_gib
from tasks.skus import Sku, catalogue, find_sku
from tasks.skus.prices import PriceTable

_GPU_FIT, _NODES, _QUOTA = "GPU fit", "nodes", "quota"
_BYPASS_ANNOTATION = "kaito.sh/bypass-resource-checks"


def named_offers(workspace: Workspace) -> tuple[Offer, ...]:
    """What the Workspace would take, best first; empty where it names no kind of machine.

    Raises: InvalidWorkspace: an annotation that cannot be read.
    """
    named = workspace.resource.instance_type
    if not named and "kaitoflow.io/instance-types" not in workspace.metadata.annotations:
        return ()
    return offers_of(workspace)


def known_fits(run: Run, offers: Sequence[Offer]) -> list[Fit]:
    """How the run fits each kind of machine that is in the catalogue, in the offers' order."""
    known = catalogue()
    names = dict.fromkeys(offer.instance_type.lower() for offer in offers)
    return [fit_on(run, known[name]) for name in names if name in known]


def gpu_fit(run: Run, offers: Sequence[Offer], findings: Findings) -> Check:
    """Each kind of machine that is named, and the run on it."""
    fits = {fit.sku.name.lower(): fit for fit in known_fits(run, offers)}
    names = list(dict.fromkeys(offer.instance_type for offer in offers))
    lines = [_line(name, fits.get(name.lower())) for name in names]
    detail, limits = "; ".join(lines), list(_limits(run, list(fits.values())))
    if not fits:
        return Check(name=_GPU_FIT, result="warn", detail=detail, fix=_fix_of_unknown(names[0]))
    if not any(fit.does_fit for fit in fits.values()):
        return _does_not_fit(run, next(iter(fits.values())), detail, findings)
    if len(fits) < len(names):
        limits.append(_fix_of_unknown(next(n for n in names if n.lower() not in fits)))
    result = "warn" if limits else "ok"
    return Check.model_validate(
        {"name": _GPU_FIT, "result": result, "detail": detail, "fix": "; ".join(limits)}
    )


def _line(name: str, fit: Fit | None) -> str:
    if fit is None:
        return f"{name} is not in the catalogue"
    head = f"{fit.sku.name} ({fit.sku})"
    if fit.peak_gib is None:
        return f"{head}: the model's size is not known"
    peak = f"{head}: peak about {fit.peak_gib:.1f} of {fit.sku.total_gpu_memory_gib:g} GiB"
    if fit.batch is None:
        return peak if fit.does_fit else f"{peak}, and a server runs on one node"
    kept = ", activations recomputed" if fit.batch.gradient_checkpointing else ""
    rows = f"batch {fit.batch.rows} x {fit.batch.row_tokens} tokens"
    return f"{peak}, {rows}{kept}, {'bfloat16' if fit.sku.has_bf16 else 'float16'}"


def _limits(run: Run, fits: Sequence[Fit]) -> list[str]:
    """What a person should know of machines that fit, each a sentence that says what to do."""
    found: list[str] = []
    for fit in fits:
        found += fit.sku.limits
        if not fit.does_fit:
            found.append(f"{fit.sku.name} is too small and will not do")
        elif lack_gib := serving_lacks_gib(run, fit.sku):
            found.append(
                f"to serve the tuned model {fit.sku.name} lacks {lack_gib:.1f} GiB: take a larger "
                'one, or annotate kaito.sh/serve: "false"'
            )
    return found


def _does_not_fit(run: Run, fit: Fit, detail: str, findings: Findings) -> Check:
    is_bypassed = _BYPASS_ANNOTATION in run.workspace.metadata.annotations
    is_refused = findings.provisioner not in {"byo", "local"} and not is_bypassed
    smaller = "a smaller preset"
    if run.workspace.tuning:
        smaller += ", method qlora or a smaller max_length"
    advice = f"choose a larger one or {smaller}"
    prices = findings.prices if isinstance(findings.prices, PriceTable) else None
    cheapest = _cheapest_that_fits(run, fit.sku, prices)
    if cheapest:
        advice = f"choose {cheapest.name}, the cheapest that fits, or {smaller}"
    return Check(
        name=_GPU_FIT,
        result="fail" if is_refused else "warn",
        detail=detail,
        fix=advice,
        reason=ModelDoesNotFit.__name__,
    )


def _cheapest_that_fits(run: Run, instead_of: Sku, prices: PriceTable | None) -> Sku | None:
    """The cheapest machine of the same cloud that fits; None where there is none."""
    priced = {
        sku.name: price
        for sku in catalogue().values()
        if sku.cloud == instead_of.cloud and sku.runs_our_images and not sku.is_retired
        if prices and (price := prices.price_per_hour(sku.name, "on-demand"))
    }
    for name in sorted(priced, key=lambda name: priced[name]):
        sku = find_sku(name)
        if fit_on(run, sku).does_fit and not serving_lacks_gib(run, sku):
            return sku
    return None


def _fix_of_unknown(name: str) -> str:
    try:
        find_sku(name)
    except UnknownInstanceType as error:
        return error.fix
    return ""


def nodes(workspace: Workspace, memory_gib: float | None, findings: Findings) -> Check | None:
    """Which of the cluster's nodes will do; None where it was not looked at.

    Raises: InvalidWorkspace: a selector that cannot be read.
    """
    found = findings.nodes
    if found is None:
        return None
    if isinstance(found, KaitoflowError):
        return not_told(_NODES, found)
    selection = select_nodes(need_of(workspace, memory_gib=memory_gib), found)
    if selection.is_enough:
        return Check(name=_NODES, result="ok", detail=selection.detail)
    if findings.makes_nodes:
        wanted = ", ".join(map(str, named_offers(workspace)))
        detail = f"none that fits is there; {findings.provisioner} makes one: {wanted}"
        return Check(name=_NODES, result="ok", detail=detail)
    lack = selection.lack
    fix = lack.fix
    if findings.provisioner is None:
        fix += ", or let the installation make nodes (nodes.provisioner)"
    return Check(name=_NODES, result="warn", detail=lack.problem, fix=fix)


def quota(workspace: Workspace, offers: Sequence[Offer], findings: Findings) -> Check | None:
    """What the subscription has left for each kind of machine; None where none is to be made."""
    found = findings.quotas
    if found is None or not offers:
        return None
    if isinstance(found, KaitoflowError):
        # A quota that cannot be read stops nobody: Azure itself will say.
        return not_told(_QUOTA, CloudUnavailable(found.asked, found.found, found.fix))
    count, known = workspace.resource.count, catalogue()
    lines, wishes, has_room, may_have_room = [], [], False, False
    for offer in offers:
        sku = known.get(offer.instance_type.lower())
        left = found.of(sku, offer) if sku else None
        if sku is None or left is None:
            lines.append(f"{offer}: {found.location} lists no quota of its family")
            may_have_room = True
            continue
        needed = sku.vcpus * count
        lines.append(
            f"{offer}: {left.left} of {left.limit} cores of {left.family} left in "
            f"{found.location}, {needed} needed"
        )
        wishes.append(f"{left.used + needed} for {left.family}, {left.used} used")
        has_room |= left.left >= needed
        may_have_room |= left.limit >= needed
    if has_room:
        return Check(name=_QUOTA, result="ok", detail="; ".join(lines))
    return Check(
        name=_QUOTA,
        result="warn" if may_have_room else "fail",
        detail="; ".join(lines),
        fix=_fix_of_quota(wishes),
        reason=InsufficientQuota.__name__,
    )


def _fix_of_quota(wishes: Sequence[str]) -> str:
    limits = f" (a limit of {', or '.join(dict.fromkeys(wishes))})" if wishes else ""
    return (
        f"ask Azure for more cores of this family in this region{limits}, or name another instance "
        "type"
    )
