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
from tasks.nodes.held_gpus import in_the_way
from tasks.nodes.need import is_bypassed
from tasks.nodes.offers import Offer, offers_of
from tasks.nodes.provisioner import NodeNeed
from tasks.nodes.selection import select_nodes
from tasks.plan.check import not_told
from tasks.plan.findings import Findings
from tasks.plan.size import Fit, Run, fit_on, serving_lacks_gib
from tasks.platform.passed_on import queue_of
from tasks.resources import GPUS_ANNOTATION, gpus_asked, why_one_gpu
from tasks.skus import Sku, catalogue, find_sku
from tasks.skus.prices import PriceTable

_GPU_FIT, _NODES, _QUOTA = "GPU fit", "nodes", "quota"


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
    peak = f"{head}: peak about {fit.peak_gib:.1f} of {fit.available_gib:g} GiB"
    if fit.processes > 1:
        peak += f" on each of {fit.processes} GPUs, which share the rows of a step"
    elif fit.sku.gpus > 1:
        peak += f" on {'one GPU' if fit.gpus == 1 else 'all GPUs'}"
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
        elif why := _why_one_gpu(run, fit):
            found.append(f"one of {fit.sku.gpus} GPUs is used: {why}")
        elif lack_gib := serving_lacks_gib(run, fit.sku):
            found.append(
                f"to serve the tuned model {fit.sku.name} lacks {lack_gib:.1f} GiB: take a larger "
                'one, or annotate kaito.sh/serve: "false"'
            )
    return found


def _why_one_gpu(run: Run, fit: Fit) -> str:
    """Why the others idle where all could be used; "" = they do not, or nobody wants them to."""
    if fit.sku.gpus == 1 or not run.config or (run.shares_gpus and not gpus_asked(run.workspace)):
        return ""
    return why_one_gpu(run.config)


def _does_not_fit(run: Run, fit: Fit, detail: str, findings: Findings) -> Check:
    is_own = findings.provisioner in {"byo", "local"}
    is_refused = not is_own and not is_bypassed(run.workspace)
    smaller = "a smaller preset"
    if run.workspace.tuning:
        smaller += ", method qlora or a smaller max_length"
    is_priced = isinstance(findings.prices, PriceTable)
    advice = f"choose {'' if is_priced else 'a larger one or '}{smaller}"
    if cheapest := cheapest_that_fits(run, fit.sku.cloud, findings):
        advice = f"choose {cheapest.name}, the cheapest that fits, or {smaller}"
    if (asked := gpus_asked(run.workspace)) > fit.sku.gpus:
        advice = f"{GPUS_ANNOTATION} asks for {asked} GPUs: lower it, or {advice}"
    elif fit.batch and (fit.sku.gpus > 1 or (is_priced and not cheapest)):
        nobody = "" if cheapest or not is_priced else ", and none that is known does"
        advice = f"a GPU has to hold the whole model{nobody}: {advice}"
    return Check(
        name=_GPU_FIT,
        result="fail" if is_refused else "warn",
        detail=detail,
        fix=advice,
        reason=ModelDoesNotFit.__name__,
    )


def cheapest_that_fits(run: Run, cloud: str | None, findings: Findings) -> Sku | None:
    """The cheapest machine that fits; None where there is none, or none has a price.

    Args: cloud: whose machines; None = any.
    """
    prices = findings.prices if isinstance(findings.prices, PriceTable) else None
    priced = {
        sku.name: price
        for sku in catalogue().values()
        if cloud in {None, sku.cloud} and sku.runs_our_images and not sku.is_retired
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


def nodes(workspace: Workspace, findings: Findings, need: NodeNeed) -> Check | None:
    """Which of the cluster's nodes will do; None where it was not looked at.

    Raises: InvalidWorkspace: a selector that cannot be read.
    """
    found = findings.nodes
    if found is None:
        return None
    if isinstance(found, KaitoflowError):
        return not_told(_NODES, found)
    holders = findings.gpu_holders if isinstance(findings.gpu_holders, Sequence) else ()
    others = in_the_way(holders, workspace, need)
    if queue_of(workspace):
        others = []  # whose GPUs make way, and when, is the queue's to say
    selection = select_nodes(need, found, others)
    if selection.is_enough:
        return Check(name=_NODES, result="ok", detail=selection.detail)
    if findings.makes_nodes:
        wanted = ", ".join(map(str, named_offers(workspace)))
        detail = f"none that fits is there; {findings.provisioner} makes one: {wanted}"
        return Check(name=_NODES, result="ok", detail=detail)
    lack = selection.lack
    fix = lack.fix
    if findings.provisioner is None:
        fix += (
            "; whether the installation makes nodes is not known from here: plan with its "
            "KAITOFLOW_PROVISIONER (aks, karpenter or byo) to see"
        )
    return Check(name=_NODES, result="warn", detail=lack.problem, fix=fix)


def queue(workspace: Workspace, findings: Findings) -> Check | None:
    """What waiting in a queue means for nodes that are made; None where none is."""
    name = queue_of(workspace)
    if not name or not findings.makes_nodes:
        return None
    return Check(
        name="queue",
        result="warn",
        detail=f"its machine is made, and paid for, before queue {name} has room for its pods",
        fix="give Workspaces of queues nodes of the cluster (provisioner byo), or remove the label",
    )


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
