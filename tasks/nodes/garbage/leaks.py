"""What ledger, cloud, Workspaces and runs disagree on: machines that nobody uses. Pure.

What may be removed is listed first, the evidence that it is needed second: what begins in between
is in the evidence, and is never taken for garbage.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tasks.contract.status import status_of
from tasks.contract.units import utc_moment
from tasks.contract.workspace import FINALIZER, STOPPED_ANNOTATION
from tasks.nodes.aks.pool_body import pool_of
from tasks.nodes.claims.heirs import has_ended, heirs, is_awaited
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.claims.node_claim import (
    AGENT_POOL_FINALIZER,
    is_leaving,
    moment_of,
    node_name_of,
    offer_of,
    state_of,
)
from tasks.nodes.offers import CapacityType
from tasks.nodes.provisioner import Machine
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import OWNER_LABEL, OWNER_NAMESPACE_LABEL
from tasks.platform.wire import Seen, is_condition, name_of

PricePerHour = Callable[[str, CapacityType], float | None]

_MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_ENDED_PHASES = {"Succeeded", "Failed"}


class LeakKind(StrEnum):
    """What is there without what it is there for."""

    NO_WORKSPACE = "claim-without-workspace"
    ENDED_WORKSPACE = "claim-of-ended-workspace"
    UNUSED = "claim-without-use"
    NO_CLAIM = "pool-without-claim"
    NO_POOL = "claim-without-pool"
    NO_RUN = "workspace-without-run"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A claim or an agent pool that nobody needs, or a Workspace that nobody works on.

    workspace: namespace/name of the one that it was for; empty = not known.
    nodes: the names of those that it is now.
    since: from when on that is so, at the earliest; None = not known.
    price_per_hour: in USD; None = not known.
    kept_because: why it may not be removed now; empty = it may.
    """

    kind: LeakKind
    name: str
    workspace: str
    instance_type: str
    capacity_type: CapacityType
    since: datetime | None
    nodes: tuple[str, ...] = ()
    price_per_hour: float | None = None
    kept_because: str = ""

    @property
    def is_pool(self) -> bool:
        """Whether it is known to the cloud only."""
        return self.kind == LeakKind.NO_CLAIM


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """What may be removed: of our own making, the machines listed before the claims."""

    machines: Sequence[Machine]
    claims: Sequence[Seen]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What says that something is needed, listed after all suspects.

    pods: of all namespaces; those on nodes of leaks are enough.
    machines: once more; None = who fulfils claims does not tell of them.
    with_run: uids of Workspaces with a run that has not ended; None = nobody was asked.
    """

    workspaces: Sequence[Seen]
    nodes: Sequence[Seen]
    pods: Sequence[Seen] = ()
    machines: Sequence[Machine] | None = None
    with_run: Collection[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How leaks are judged.

    grace_s: how long a thing is left alone, from when it was made, or its Workspace ended.
    """

    price_per_hour: PricePerHour
    grace_s: float
    now: datetime


def find_leaks(suspects: Suspects, evidence: Evidence, terms: Terms) -> list[Leak]:
    """Every leak: claims, pools, Workspaces; what is inside its grace period is none yet."""
    ours = [claim for claim in suspects.claims if _is_ours(claim)]
    found = [_claim_leak(claim, suspects, evidence, terms) for claim in ours]
    claimed = {claim["metadata"]["name"] for claim in suspects.claims}
    found += [
        _pool_leak(machine, evidence, terms)
        for machine in suspects.machines
        if machine.claim not in claimed and not machine.is_leaving
    ]
    found += [_run_leak(each, ours, evidence, terms) for each in evidence.workspaces]
    return [leak for leak in found if leak]


def given_back(claims: Sequence[Seen]) -> list[Seen]:
    """Claims of ours that wait for the end of their machine."""
    return [claim for claim in claims if is_leaving(claim) and _is_ours(claim)]


def _is_ours(claim: Seen) -> bool:
    labels = claim["metadata"].get("labels") or {}
    return MANAGED_BY.items() <= labels.items() and bool(owner_uid(claim))


def _claim_leak(claim: Seen, suspects: Suspects, evidence: Evidence, terms: Terms) -> Leak | None:
    kind, since = _why_unneeded(claim, suspects, evidence)
    name, labels = str(claim["metadata"]["name"]), claim["metadata"]["labels"]
    nodes = [n for n in evidence.nodes if name_of(n) == node_name_of(claim) or pool_of(n) == name]
    if kind is None or terms.now - since < timedelta(seconds=terms.grace_s):
        return None
    used = heirs(evidence.workspaces)
    if kind != LeakKind.NO_POOL and any(name_of(node) in used for node in nodes):
        return None
    offer = offer_of(claim)
    return Leak(
        kind=kind,
        name=name,
        workspace=f"{labels.get(OWNER_NAMESPACE_LABEL, '')}/{labels.get(OWNER_LABEL, '')}".strip(
            "/"
        ),
        instance_type=offer.instance_type,
        capacity_type=offer.capacity_type,
        since=since,
        nodes=tuple(map(name_of, nodes)),
        price_per_hour=terms.price_per_hour(offer.instance_type, offer.capacity_type),
        kept_because="it was given back and is not gone yet; see `kubectl describe nodeclaim`"
        if is_leaving(claim)
        else _kept_by_pods(nodes, evidence.pods),
    )


def _why_unneeded(
    claim: Seen, suspects: Suspects, evidence: Evidence
) -> tuple[LeakKind | None, datetime]:
    """What the claim is without, and since when; None when it is needed."""
    meta, uid = claim["metadata"], owner_uid(claim)
    made = moment_of(claim, "Created")
    if is_leaving(claim):
        made = utc_moment(meta["deletionTimestamp"])
    owner = next((w for w in evidence.workspaces if w["metadata"]["uid"] == uid), None)
    if owner is None:
        return LeakKind.NO_WORKSPACE, made
    if "deletionTimestamp" in owner["metadata"]:
        return None, made  # its release is under way
    if has_ended(owner):
        return LeakKind.ENDED_WORKSPACE, max(made, _ended(owner))
    if _lacks_pool(claim, suspects, evidence):
        return LeakKind.NO_POOL, moment_of(claim, "Launched")
    if _is_at_rest(owner, evidence) and node_name_of(claim) not in status_of(owner).worker_nodes:
        return LeakKind.UNUSED, max(made, _ended(owner))
    return None, made


def _is_at_rest(workspace: Seen, evidence: Evidence) -> bool:
    """Whether it has the nodes that it needs, and no run that may be about to use another."""
    meta, status = workspace["metadata"], status_of(workspace)
    is_current = status.observed_generation == meta.get("generation")
    has_run = meta["uid"] in (evidence.with_run or ())
    return is_current and status.state.is_settled and bool(status.worker_nodes) and not has_run


def _lacks_pool(claim: Seen, suspects: Suspects, evidence: Evidence) -> bool:
    """Whether the pool that a claim has become is gone; it is not, when either list has it."""
    if evidence.machines is None or not state_of(claim).launched or is_leaving(claim):
        return False
    there = {machine.claim for machine in (*suspects.machines, *evidence.machines)}
    has_pool = AGENT_POOL_FINALIZER in claim["metadata"].get("finalizers", ())
    return has_pool and claim["metadata"]["name"] not in there


def _pool_leak(machine: Machine, evidence: Evidence, terms: Terms) -> Leak | None:
    nodes = [node for node in evidence.nodes if pool_of(node) == machine.name]
    joined = [utc_moment(node["metadata"]["creationTimestamp"]) for node in nodes]
    since = machine.created or min(joined, default=None)
    is_young = since is not None and terms.now - since < timedelta(seconds=terms.grace_s)
    used, others = heirs(evidence.workspaces), evidence.workspaces
    if is_young or any(name_of(each) in used or is_awaited(each, others) for each in nodes):
        return None
    return Leak(
        kind=LeakKind.NO_CLAIM,
        name=machine.name,
        workspace=machine.workspace,
        instance_type=machine.instance_type,
        capacity_type=machine.capacity_type,
        since=since,
        nodes=tuple(map(name_of, nodes)),
        price_per_hour=terms.price_per_hour(machine.instance_type, machine.capacity_type),
        kept_because=_kept_by_pods(nodes, evidence.pods),
    )


def _run_leak(
    workspace: Seen, claims: Sequence[Seen], evidence: Evidence, terms: Terms
) -> Leak | None:
    """A Workspace under way that has no run: its machines wait for nobody."""
    meta, since = workspace["metadata"], _ended(workspace)
    if evidence.with_run is None or meta["uid"] in evidence.with_run or not _wants_run(workspace):
        return None
    if terms.now - since < timedelta(seconds=terms.grace_s):
        return None
    offers = [offer_of(claim) for claim in claims if owner_uid(claim) == meta["uid"]]
    prices = [terms.price_per_hour(each.instance_type, each.capacity_type) for each in offers]
    known = [price for price in prices if price is not None]
    return Leak(
        kind=LeakKind.NO_RUN,
        name=meta["name"],
        workspace=f"{meta['namespace']}/{meta['name']}",
        instance_type=(workspace.get("resource") or {}).get("instanceType", ""),
        capacity_type=offers[0].capacity_type if offers else "on-demand",
        since=since,
        nodes=tuple((workspace.get("status") or {}).get("workerNodes") or ()),
        price_per_hour=sum(known) if len(known) == len(prices) else None,
        kept_because="the watcher starts its run again; when it does not, see the watcher's log, "
        f"or end the Workspace: kaitoflow stop {meta['name']} --namespace {meta['namespace']}",
    )


def _wants_run(workspace: Seen) -> bool:
    """Whether it wants a run, as the watcher sees it: under way, or changed since its last run."""
    meta, status = workspace["metadata"], status_of(workspace)
    if "deletionTimestamp" in meta or STOPPED_ANNOTATION in (meta.get("annotations") or {}):
        return False
    if FINALIZER not in meta.get("finalizers", ()):
        return False  # no watcher has taken it on: it is another installation's, or nobody's
    is_current = status.observed_generation == meta.get("generation")
    return not (is_current and status.state.is_settled)


def _kept_by_pods(nodes: Sequence[Seen], pods: Sequence[Seen]) -> str:
    """Which pods of its own a Ready node has; empty when there is none."""
    ready = {name_of(node) for node in nodes if is_condition(node, "Ready")}
    found = [
        f"{pod['metadata']['namespace']}/{name_of(pod)}"
        for pod in pods
        if (pod.get("spec") or {}).get("nodeName") in ready and _is_own(pod)
    ]
    if not found:
        return ""
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"its node is Ready and runs pod {found[0]}{others}; delete what the pod is of"


def _is_own(pod: Seen) -> bool:
    """Whether a pod is there for its own sake: every node has its daemons."""
    meta = pod["metadata"]
    owners = {owner["kind"] for owner in meta.get("ownerReferences") or ()}
    is_mirror = _MIRROR_ANNOTATION in (meta.get("annotations") or {})
    has_ended = (pod.get("status") or {}).get("phase") in _ENDED_PHASES
    return not (is_mirror or has_ended or "DaemonSet" in owners)


def _ended(workspace: Seen) -> datetime:
    """When the last run of a Workspace ended: when its conditions last changed."""
    conditions = (workspace.get("status") or {}).get("conditions") or ()
    told = [each["lastTransitionTime"] for each in conditions if each.get("lastTransitionTime")]
    return max(utc_moment(each) for each in (*told, workspace["metadata"]["creationTimestamp"]))
