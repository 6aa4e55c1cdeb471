"""What a Workspace has, compared with what it is to have once its run has ended. Pure.

Goes in: its status and what the cluster shows of it now. Comes out: what has left, whether a run
brings it back, and the status as it has to be meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.contract.status import Condition, ConditionType, State, WorkspaceStatus
from tasks.nodes.claims.node_claim import CLAIM
from tasks.platform.readiness import tell_of_server
from tasks.platform.served_revision import REVISION
from tasks.platform.wire import Seen, condition, is_condition

_ANSWERS_BY = ("Service", "StatefulSet")
_TOLD_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the cluster has of one Workspace; None = it is not known, and nothing is said of it.

    objects: the digests of what is ours in them, by kind and name; without those that are leaving.
    pods: of its server. nodes: that they or the status name, as far as they are there.
    claims: by name; None also where no node is made for Workspaces.
    changed: what others make and the Workspace needs, and have made or changed since its run ended.
    """

    objects: Mapping[tuple[str, str], str] | None = None
    pods: Sequence[Seen] | None = None
    nodes: Mapping[str, Seen] | None = None
    claims: Mapping[str, Seen] | None = None
    changed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Something that is not as the Workspace needs it.

    what: in words. kind, name: of the object. reason: of the conditions that tell it.
    fix: what is done, or is to be done.
    needs_run: whether a run brings it back; else the cluster or a person does.
    """

    what: str
    kind: str
    name: str
    reason: str
    fix: str = "it is made again"
    needs_run: bool = True
    is_of_node: bool = False
    takes_server: bool = True

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def has_server(around: Around) -> bool:
    """Whether what serves is there, ready or not; False also where that is not known."""
    return any(kind == "StatefulSet" for kind, _ in around.objects or ())


def departures(status: WorkspaceStatus, around: Around) -> list[Departure]:
    """What has left of a Workspace that is served; nothing while none of it is known."""
    if status.served_generation is None:
        return []
    gone = [*_of_objects(status, around), *_of_claims(status, around), *_of_nodes(status, around)]
    if status.state.is_of_server or _is_kept(status, around):
        return gone
    # A run of what serves is not to be had any more: the Workspace is another one by now.
    later = f"it comes back with a run of generation {status.observed_generation} that ends well"
    return [replace(each, needs_run=False, fix=later) if each.needs_run else each for each in gone]


def _is_kept(status: WorkspaceStatus, around: Around) -> bool:
    """Whether what serves can be restored without a run of what the Workspace asks for now."""
    kept = {(each.kind, each.name) for each in status.objects if each.kind == REVISION}
    return status.state is State.FAILED and bool(kept & (around.objects or {}).keys())


def _of_objects(status: WorkspaceStatus, around: Around) -> list[Departure]:
    if around.objects is None:
        return []
    gone = []
    for made in status.objects:
        found = around.objects.get((made.kind, made.name))
        if found == made.digest:
            continue
        fate = "deleted" if found is None else "changed"
        gone.append(
            Departure(
                what=f"{made.kind} {made.name} {fate}",
                kind=made.kind,
                name=made.name,
                reason=f"{made.kind}{fate.capitalize()}",
                takes_server=found is None and made.kind in _ANSWERS_BY,
            )
        )
    return gone


def _of_claims(status: WorkspaceStatus, around: Around) -> list[Departure]:
    if around.claims is None:
        return []
    gone = []
    for name in _claims_needed(status):
        claim = around.claims.get(name)
        if claim and "deletionTimestamp" not in claim["metadata"]:
            continue
        gone.append(
            Departure(
                what=f"claim {name} {'is being deleted' if claim else 'deleted'}",
                kind=CLAIM,
                name=name,
                reason="NodeClaimDeleted",
                fix="another node is claimed",
                is_of_node=True,
            )
        )
    return gone


def _claims_needed(status: WorkspaceStatus) -> list[str]:
    """Those of nodes that are needed, or that are none yet: others are on their way back."""
    needed = {*status.worker_nodes, ""}
    held = (machine for machine in status.cost.machines if not machine.until)
    return [machine.name for machine in held if machine.node in needed]


def _of_nodes(status: WorkspaceStatus, around: Around) -> list[Departure]:
    if around.nodes is None:
        return []
    gone = []
    for name in sorted(_nodes_needed(status, around)):
        node = around.nodes.get(name)
        if node is None:
            gone.append(_lost(name, is_claimed=around.claims is not None))
        elif not is_condition(node, "Ready"):
            gone.append(_not_ready(name, condition(node, "Ready")))
    return gone


def _nodes_needed(status: WorkspaceStatus, around: Around) -> set[str]:
    """Those that the server's pods are on; while they are on none, or some are claimed, all."""
    used = _nodes_used(around)
    return used | set(status.worker_nodes) if around.claims is not None or not used else used


def _nodes_used(around: Around) -> set[str]:
    pods = [pod for pod in around.pods or () if "deletionTimestamp" not in pod["metadata"]]
    return {str(pod["spec"]["nodeName"]) for pod in pods if pod["spec"].get("nodeName")}


def _lost(name: str, *, is_claimed: bool) -> Departure:
    fix = (
        "another is claimed"
        if is_claimed
        else "its pods go on where a node fits, or once it is back"
    )
    return Departure(
        what=f"node {name} lost",
        kind="Node",
        name=name,
        reason="NodeLost",
        fix=fix,
        needs_run=is_claimed,
        is_of_node=True,
    )


def _not_ready(name: str, ready: Seen) -> Departure:
    said = ": ".join(str(ready[key]) for key in ("reason", "message") if ready.get(key))
    return Departure(
        what=f"node {name} is not ready{f' ({said})' if said else ''}",
        kind="Node",
        name=name,
        reason="NodeNotReady",
        fix=f"look at the machine (kubectl describe node {name})",
        needs_run=False,
        is_of_node=True,
    )


def reason_of(gone: Sequence[Departure]) -> str:
    """Why a run is to begin, in one line; empty when none of this needs one."""
    needs = [each.what for each in gone if each.needs_run]
    more = f" and {len(needs) - _TOLD_AT_ONCE} more" if len(needs) > _TOLD_AT_ONCE else ""
    return f"repair: {', '.join(needs[:_TOLD_AT_ONCE])}{more}" if needs else ""


def is_sound(status: WorkspaceStatus) -> bool:
    """Whether the state of a settled Workspace follows from its conditions, as runs leave both."""
    has_succeeded = status.is_true(ConditionType.WORKSPACE_SUCCEEDED)
    match status.state:
        case State.READY | State.NOT_READY:
            return has_succeeded and status.served_generation is not None
        case State.SUCCEEDED:
            return has_succeeded and status.served_generation is None
        case State.FAILED:
            return any(each.is_failure for each in status.conditions)
        case State.STOPPED:
            return status.condition(ConditionType.WORKSPACE_SUCCEEDED) is not None
        case _:
            return True


def as_seen(status: WorkspaceStatus, around: Around) -> WorkspaceStatus:
    """The status of a Workspace at which no run is at work, with what the cluster shows of it."""
    if status.served_generation is None or not status.state.is_settled:
        return status
    changed = status.model_copy(deep=True)
    gone = departures(status, around)
    _tell_of_nodes(changed, [each for each in gone if each.is_of_node], around)
    if around.pods is not None and not status.is_server_paused:
        _tell_of_server(changed, [each for each in gone if each.takes_server], around.pods)
    return status if changed == status else changed


_NODE_CONDITIONS = (ConditionType.NODES_READY, ConditionType.RESOURCE_READY)


def _tell_of_nodes(status: WorkspaceStatus, gone: Sequence[Departure], around: Around) -> None:
    if around.nodes is None:
        return
    if used := _nodes_used(around):
        # Pods may have moved to another node of the user's; what was claimed is missed until a run.
        is_claimed = around.claims is not None
        kept = {each for each in status.worker_nodes if is_claimed or each in around.nodes}
        status.worker_nodes = sorted(used | kept)
    if gone:
        for kind in _NODE_CONDITIONS:
            _set(status, kind, "False", gone[0].reason, "; ".join(map(str, gone)))
    elif status.waits_for_claims or any(_is_false(status.condition(k)) for k in _NODE_CONDITIONS):
        status.nodes_are_ready(f"ready: {', '.join(status.worker_nodes)}")


def _tell_of_server(
    status: WorkspaceStatus, gone: Sequence[Departure], pods: Sequence[Seen]
) -> None:
    is_ready = not gone and tell_of_server(status, pods)
    if gone:
        kind, text = ConditionType.INFERENCE_READY, "; ".join(map(str, gone))
        _set(status, kind, "False", gone[0].reason, text)
    # A newer generation that has failed is told by the state, whatever the older one serves.
    if status.state.is_of_server:
        status.state = State.READY if is_ready else State.NOT_READY


def _set(
    status: WorkspaceStatus, kind: ConditionType, value: str, reason: str, message: str
) -> None:
    """Set a condition, which goes on speaking of the generation that is served."""
    status.set_condition(
        kind,
        status="True" if value == "True" else "False",
        reason=reason,
        message=message,
        generation=status.served_generation,
    )


def _is_false(found: Condition | None) -> bool:
    return found is not None and found.status == "False"
