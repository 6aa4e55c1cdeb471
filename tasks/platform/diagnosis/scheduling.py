"""Why no node takes a pod: the scheduler's own count of nodes per cause, and the fix."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tasks.contract.errors import Unschedulable
from tasks.platform.diagnosis.facts import node_labels, requests
from tasks.platform.diagnosis.verdict import Cause, Diagnosis, quoted, verdict
from tasks.platform.wire import Seen, condition, name_of

_AVAILABLE = re.compile(r"0/(\d+) nodes are available: (.*)", re.DOTALL)
# What follows the first sentence is about preemption.
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_NOT_HELPFUL, _NO_VICTIMS = "Preemption is not helpful", "No preemption victims found"
_PART = re.compile(r"(\d+) (.+)")

_Cause = functools.partial(Cause, error=Unschedulable)
# The scheduler asks its filters in turn and reports each node's first refusal: first what the node
# is, then what is left of it, then whether it reaches the volumes. The later the filter, the less
# keeps a node from taking the pod: the latest cause gives the fix. WHAT is what the words name.
_OTHER_NODE = (
    _Cause(
        words=r"node\(s\) were unschedulable",
        meaning="cordoned",
        fix="let a node take pods again (kubectl uncordon NODE)",
    ),
    _Cause(
        words=r"node\(s\) had (?:untolerated taint(?:\(s\)| \{(?P<what>[^}]*)\})|taints that.*)",
        meaning="with a taint that the pod does not tolerate WHAT",
        fix="look at the taints (kubectl describe node) and remove the one in the way "
        "(kubectl taint node NODE KEY-)",
    ),
    _Cause(
        words=r"node\(s\) didn't match (?:Pod's|scheduler-enforced) node affinity.*",
        meaning="with other labels",
        fix="label a node that fits (kubectl label node NODE KEY=VALUE) "
        "or correct resource.labelSelector",
    ),
    _Cause(
        words=r"Too many pods",
        meaning="with as many pods as they may have",
        fix="add a node or remove pods that are not needed",
    ),
)
_GPU = r"Insufficient (?P<what>(?:\w+\.)+\w+/(?:gpu|mig-\S+))"
_NOT_COUNTED = (
    "and if a node has GPUs that Kubernetes does not count (kubectl describe node NODE), "
    "install the device plugin of their vendor (NVIDIA's: the chart's devicePlugin.enabled=true)"
)
_TOO_FULL = (
    _Cause(
        words=r"Insufficient (?P<what>\S+)",
        meaning="with too little free WHAT",
        fix="add a node, wait until another pod has ended, or ask for less",
    ),
    _Cause(
        words=_GPU,
        meaning="with too little free WHAT",
        fix=f"add a GPU node or wait for a free GPU, {_NOT_COUNTED}",
    ),
)
_TOO_SMALL = (
    _Cause(
        words=r"Insufficient (?P<what>\S+)",
        meaning="with too little WHAT even when empty",
        fix="add a larger node, or ask for less",
    ),
    _Cause(
        words=_GPU,
        meaning="with too little WHAT even when empty",
        fix=f"add a node with as many GPUs, {_NOT_COUNTED}",
    ),
)
_VOLUME_ELSEWHERE = (
    _Cause(
        words=r"node\(s\) exceed max volume count",
        meaning="with as many volumes as they may have",
        fix="add a node",
    ),
    _Cause(
        words=r"node\(s\) (?:didn't match PersistentVolume's node affinity"
        r"|had (?:no available volume zone|volume node affinity conflict))",
        meaning="that cannot reach the pod's volume",
        fix="run on the node or in the zone of the volume, or use a volume that every node "
        "reaches (kubectl describe pv)",
    ),
    _Cause(
        words=r"node\(s\) (?:didn't find available persistent volumes to bind"
        r"|did not have enough free storage)",
        meaning="without a volume for the pod's claim",
        fix="give the claim a storage class that makes volumes, or make the volume "
        "(kubectl describe pvc)",
    ),
    _Cause(
        words=r"pod has unbound immediate PersistentVolumeClaims",
        meaning="a PersistentVolumeClaim of the pod has no volume yet",
        fix="see what its storage class waits for (kubectl describe pvc), "
        "or name a storage class that exists",
    ),
    _Cause(
        words=r"persistentvolumeclaim (?P<what>\"[^\"]+\") not found",
        meaning="there is no PersistentVolumeClaim WHAT",
        fix="create the claim in the Workspace's namespace, or name one that is there",
    ),
)
_UNKNOWN_FIX = "see what the scheduler says of each node (kubectl describe pod, kubectl get nodes)"


def diagnose_scheduling(pod: Seen) -> Diagnosis | None:
    """Why no node takes the pod; None while the scheduler has not said so.

    Never final: a node may come or get free.
    """
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    found, fix = _explain(scheduled.get("message") or "")
    return verdict(Unschedulable, asked=_asked(pod), found=found, fix=fix, is_final=False)


def _asked(pod: Seen) -> str:
    amounts = ", ".join(f"{amount} {resource}" for resource, amount in requests(pod).items())
    labels = node_labels(pod)
    where = f"a node with {labels}" if labels else "any node"
    what = f"{' and' if labels else ' with'} free {amounts}" if amounts else ""
    return f"pod {name_of(pod)} asks for {where}{what}"


def _explain(message: str) -> tuple[str, str]:
    """What was found, and the fix."""
    available = _AVAILABLE.match(message)
    if not available:
        return f"the scheduler says: {quoted(message)}", _UNKNOWN_FIX
    total, rest = available.groups()
    # Where removing other pods would help on no node, none is large enough.
    is_too_small = _NOT_HELPFUL in rest and _NO_VICTIMS not in rest
    sizes = _TOO_SMALL if is_too_small else _TOO_FULL
    causes = (*_OTHER_NODE, *sizes, *_VOLUME_ELSEWHERE)
    parts = re.split(r", (?=\d+ )", _SENTENCE_END.split(rest)[0])
    counted = [found.groups() for found in map(_PART.fullmatch, parts) if found]
    if not counted:
        refusal = _Refusal.of(parts[0], causes)
        return f"no node is tried: {refusal.meaning}", refusal.fix
    refusals = [(count, _Refusal.of(phrase, causes)) for count, phrase in counted]
    nodes = ", ".join(f"{count} {refusal.meaning}" for count, refusal in refusals)
    nearest = max((refusal for _, refusal in refusals), key=lambda refusal: refusal.nearness)
    return f"none of {total} node{'s' if total != '1' else ''} takes it: {nodes}", nearest.fix


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """One of the scheduler's phrases explained; nearness: how far its node came."""

    meaning: str
    fix: str
    nearness: int

    @classmethod
    def of(cls, phrase: str, causes: Sequence[Cause]) -> Self:
        for nearness, cause in reversed(list(enumerate(causes))):
            if found := re.fullmatch(cause.words, phrase):
                what = found.groupdict().get("what") or ""
                meaning = cause.meaning.replace("WHAT", what).strip()
                return cls(meaning=meaning, fix=cause.fix, nearness=nearness)
        return cls(meaning=quoted(phrase), fix=_UNKNOWN_FIX, nearness=-1)
