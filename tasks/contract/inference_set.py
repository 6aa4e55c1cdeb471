"""An InferenceSet: so many Workspaces of one template, behind one Service and one budget. Pure.

Members are numbered, NAME-0 and on, so that two looks make the same ones, and the highest go first.
The template is rolled out to one member after the other: the next waits until all answer. Where it
surges, one more member is made first and goes last, so that as many as asked for answer meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.contract.status import ConditionType

CREATED_BY = "inferenceset.kaito.sh/created-by"
"""The label of members and of their pods: the InferenceSet's name."""

TEMPLATE_ANNOTATION = "kaitoflow.io/inference-set-template"
READY = "InferenceSetReady"
_POD_LABELS_ANNOTATION = "kaitoflow.io/pod-labels"
_API_VERSION = "kaito.sh/v1beta1"
_PORT, _SERVER_PORT = 80, 5000

Seen = Mapping[str, Any]
Object = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What is to be done now. have: members to make, or to make like the template.

    surplus: the names of those that are to go, and their uids.
    """

    have: tuple[Object, ...] = ()
    surplus: tuple[tuple[str, str], ...] = ()


def changes(inference_set: Seen, members: Sequence[Seen]) -> Changes:
    """What makes the members those that are asked for; none = they are, or one is waited for.

    Args: members: those that are its own and stay.
    """
    there = {member["metadata"]["name"]: member for member in members}
    wanted = [member_of(inference_set, number) for number in range(allowed(inference_set))]
    wanted += _surge(inference_set, wanted, there)
    names = {each["metadata"]["name"] for each in wanted}
    missing = [each for each in wanted if each["metadata"]["name"] not in there]
    surplus = [
        (name, str(member["metadata"]["uid"]))
        for name, member in there.items()
        if name not in names
    ]
    outdated = [
        each
        for each in wanted
        if (member := there.get(each["metadata"]["name"]))
        and _template_of(member) != _template_of(each)
    ]
    silent = {name for name in names & there.keys() if not answers(there[name])}
    # Those of the old template that do not answer cost nobody anything.
    broken = [each for each in outdated if each["metadata"]["name"] in silent]
    is_settled = not missing and not silent
    may_change = broken or (outdated[:1] if is_settled else [])
    return Changes(have=(*missing, *may_change), surplus=tuple(sorted(surplus, reverse=True)))


def _surge(
    inference_set: Seen, wanted: Sequence[Object], there: Mapping[str, Seen]
) -> Sequence[Object]:
    """The member beside those that are wanted, from a rollout's begin until all have taken part."""
    if not _surges(inference_set):
        return ()
    extra = member_of(inference_set, len(wanted))
    members = [there.get(each["metadata"]["name"]) for each in wanted]
    digest = _template_of(extra)
    is_to_begin = any(member and _template_of(member) != digest for member in members)
    is_to_end = all(member and answers(member) for member in members)
    beside = there.get(extra["metadata"]["name"])
    is_needed = beside is not None and answers(beside) and not is_to_end
    return (extra,) if is_to_begin or is_needed else ()


def _surges(inference_set: Seen) -> bool:
    """Whether a rollout begins with one more member.

    Where nothing is said of it that is where nobody else would answer: in a set of one.
    """
    asked = _rolling_update(inference_set).get("maxSurge")
    members = _room(inference_set, int(inference_set["spec"].get("replicas", 1)) + 1)
    has_room = members > allowed(inference_set) > 0
    return has_room and bool(allowed(inference_set) == 1 if asked is None else asked)


def _rolling_update(inference_set: Seen) -> Seen:
    strategy = inference_set["spec"].get("updateStrategy") or {}
    found: Seen = strategy.get("rollingUpdate") or {}
    return found


def allowed(inference_set: Seen) -> int:
    """How many members there may be, by `replicas` and `nodeCountLimit`."""
    return _room(inference_set, int(inference_set["spec"].get("replicas", 1)))


def _room(inference_set: Seen, members: int) -> int:
    """So many members, or as many as the nodes are for that they may have together."""
    spec = inference_set["spec"]
    nodes = int((spec["template"].get("resource") or {}).get("count") or 1)
    limit = spec.get("nodeCountLimit")
    return min(members, int(limit) // nodes) if limit else members


def answers(member: Seen) -> bool:
    """Whether a member serves, and as its object asks now."""
    status = member.get("status") or {}
    is_current = status.get("observedGeneration") == member["metadata"].get("generation")
    return is_current and _condition(member, ConditionType.INFERENCE_READY).get("status") == "True"


def member_of(inference_set: Seen, number: int) -> Object:
    """The Workspace that a member is to be."""
    meta, spec = inference_set["metadata"], inference_set["spec"]
    template = spec["template"]
    of_template = template.get("metadata") or {}
    annotations = dict(of_template.get("annotations") or {})
    # By this label the Service, and whoever scales by the pods' own figures, finds them.
    pod_labels = [annotations.get(_POD_LABELS_ANNOTATION, ""), f"{CREATED_BY}={meta['name']}"]
    annotations[_POD_LABELS_ANNOTATION] = ",".join(filter(None, pod_labels))
    selector = spec.get("labelSelector") or {"matchLabels": {CREATED_BY: meta["name"]}}
    workspace: Object = {
        "apiVersion": _API_VERSION,
        "kind": "Workspace",
        "metadata": {
            "labels": {**(of_template.get("labels") or {}), CREATED_BY: meta["name"]},
            "annotations": annotations,
        },
        "resource": {"labelSelector": selector, **(template.get("resource") or {})},
        "inference": template["inference"],
    }
    annotations[TEMPLATE_ANNOTATION] = _digest(workspace)
    workspace["metadata"] |= {
        "name": f"{meta['name']}-{number}",
        "namespace": meta["namespace"],
        "ownerReferences": [_owner(inference_set)],
    }
    return workspace


def service_of(inference_set: Seen) -> Object:
    """The Service that leads to all members that answer."""
    ports = [{"name": "http", "port": _PORT, "targetPort": _SERVER_PORT}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta_beside(inference_set),
        "spec": {"selector": {CREATED_BY: inference_set["metadata"]["name"]}, "ports": ports},
    }


def budget_of(inference_set: Seen) -> Object:
    """What lets drains take one member's pod at a time: the next once that one answers again."""
    selector = {"matchLabels": {CREATED_BY: inference_set["metadata"]["name"]}}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta_beside(inference_set),
        "spec": {"maxUnavailable": 1, "selector": selector},
    }


def _meta_beside(inference_set: Seen) -> Object:
    meta = inference_set["metadata"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": {CREATED_BY: meta["name"]},
        "ownerReferences": [_owner(inference_set)],
    }


def status_of_set(
    inference_set: Seen, members: Sequence[Seen], *, refusal: str, now: str
) -> Object:
    """What is told of the set.

    Args: refusal: why something could not be made; "" = nothing was refused. now: as UTC text.
    """
    meta, wanted = inference_set["metadata"], int(inference_set["spec"].get("replicas", 1))
    template = _template_of(member_of(inference_set, 0))
    updated = [each for each in members if _template_of(each) == template]
    ready = [each for each in members if answers(each)]
    is_ready = len(members) == wanted and len([e for e in updated if answers(e)]) == wanted
    status, reason = "False", "ReplicasPending"
    message = f"{len(ready)} of {wanted} answer"
    if refusal:
        reason, message = "MemberRefused", refusal
    elif is_ready:
        status, reason = "True", "ReplicasReady"
    elif len(updated) < len(members):
        message += f", {len(updated)} of them have the newest template"
    if (may_be := allowed(inference_set)) < wanted:
        status, reason = "False", "NodeCountLimit"
        message += f"; spec.nodeCountLimit lets {may_be} be: raise it, or lower spec.replicas"
    elif not is_ready and (why := _why(members)):
        message += f"; {why}"
    if len(members) > may_be and len(updated) < len(members) and _surges(inference_set):
        message += (
            f"; {meta['name']}-{may_be} is made before others are changed, and goes at the end"
            " (spec.updateStrategy.rollingUpdate.maxSurge: 0 changes them in their places)"
        )
    if others := sorted(_rolling_update(inference_set).keys() - {"maxSurge"}):
        message += (
            "; no effect here: "
            + ", ".join(f"spec.updateStrategy.rollingUpdate.{each}" for each in others)
            + " (members are changed one after the other)"
        )
    if inference_set["spec"].get("autoUpgrade"):
        message += "; no effect here: spec.autoUpgrade (servers have the installation's image)"
    told = {
        "type": READY,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": meta["generation"],
    }
    before = _condition(inference_set, READY)
    told["lastTransitionTime"] = (
        before["lastTransitionTime"] if before.get("status") == status else now
    )
    return {
        "observedGeneration": meta["generation"],
        "replicas": len(members),
        "readyReplicas": len(ready),
        "updatedReplicas": len(updated),
        "selector": f"{CREATED_BY}={meta['name']}",
        "conditions": [told],
    }


def _why(members: Sequence[Seen]) -> str:
    """What the first member that does not answer says of itself."""
    for member in members:
        if answers(member):
            continue
        for kind in (ConditionType.WORKSPACE_SUCCEEDED, ConditionType.INFERENCE_READY):
            if (condition := _condition(member, kind)).get("status") == "False":
                return (
                    f"{member['metadata']['name']}: {condition['reason']}: {condition['message']}"
                )
    return ""


def _condition(thing: Seen, kind: str) -> Seen:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


def _template_of(member: Seen) -> str:
    """The digest of the template that a member was made from."""
    return str((member["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""))


def _digest(workspace: Object) -> str:
    text = json.dumps(workspace, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _owner(inference_set: Seen) -> Object:
    return {
        "apiVersion": _API_VERSION,
        "kind": "InferenceSet",
        "name": inference_set["metadata"]["name"],
        "uid": inference_set["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
