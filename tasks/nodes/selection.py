"""Which of a cluster's nodes fit a Workspace, and what the others lack. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.contract.artifacts import Node
from tasks.contract.errors import InvalidWorkspace, NodeNotReady
from tasks.contract.quantity import parse_quantity
from tasks.nodes.need import GPU
from tasks.nodes.provisioner import NodeNeed
from tasks.platform.diagnosis.facts import expression_text
from tasks.platform.tolerations import TOLERATIONS
from tasks.platform.wire import Seen, is_condition, name_of

# Kubernetes sets these itself, for what is asked of the node more plainly.
_STATE_TAINTS = {
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
}
_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
# MiB of one GPU, from NVIDIA's feature discovery.
_GPU_MEMORY = "nvidia.com/gpu.memory"
# By these, clouds and feature discovery tell that a machine has a GPU, counted or not.
_GPU_SIGNS = {
    ("accelerator", "nvidia"),
    ("kubernetes.azure.com/accelerator", "nvidia"),
    ("nvidia.com/gpu.present", "true"),
    ("feature.node.kubernetes.io/pci-10de.present", "true"),
}
_PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure")
_GIB, _MIB_PER_GIB = 2**30, 2**10


@dataclass(frozen=True)
class _Lack:
    """What keeps nodes from being used: of one node, of several, and the fix."""

    one: str
    many: str
    fix: str


_NO_PLUGIN = _Lack(
    "has a GPU that Kubernetes does not count",
    "have GPUs that Kubernetes does not count",
    "install NVIDIA's device plugin, and see that its pod on the node runs",
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The verdict on a cluster's nodes.

    nodes: those that fit, best first, as many as are needed or as there are.
    is_enough: whether they are as many as are needed.
    lack: why it is not enough, as the error that a run ends with.
    lacks_plugin: whether the node that came nearest only waits for NVIDIA's device plugin.
    """

    nodes: tuple[Node, ...]
    is_enough: bool
    detail: str
    lack: NodeNotReady
    lacks_plugin: bool

    @property
    def message(self) -> str:
        """What was asked, what was found and what to do, in one line."""
        return str(self.lack)


def select_nodes(need: NodeNeed, nodes: Sequence[Seen]) -> Selection:
    """The nodes that pods can run on, and in a sentence what the others lack.

    Raises: InvalidWorkspace: a matchExpression with an operator that does not exist.
    """
    lacks = [(_first_lack(need, node), node) for node in nodes]
    fitting = sorted((node for lack, node in lacks if lack is None), key=_preference)
    unfit = sorted(((*lack, node) for lack, node in lacks if lack), key=lambda each: each[0])
    chosen = fitting[: need.nodes]
    return Selection(
        nodes=tuple(_node(each) for each in chosen),
        is_enough=len(chosen) == need.nodes,
        detail="; ".join([", ".join(map(_describe, chosen)), *_warnings(need, chosen)]),
        lack=NodeNotReady(_asked(need), _found(len(nodes), len(fitting), unfit), _fix(unfit)),
        lacks_plugin=bool(unfit) and unfit[-1][1] is _NO_PLUGIN,
    )


def _first_lack(need: NodeNeed, node: Seen) -> tuple[int, _Lack] | None:
    """What a node lacks, with how near it came to being used; None = it fits."""
    checks = (_labels, _deletion, _taints, _cordon, _readiness, _gpus, _memory)
    for nearness, check in enumerate(checks):
        if lack := check(need, node):
            return nearness, lack
    return None


def _labels(need: NodeNeed, node: Seen) -> _Lack | None:
    labels = _labels_of(node)
    is_match = all(labels.get(key) == value for key, value in need.labels.items())
    if is_match and all(_matches(each, labels) for each in need.expressions):
        return None
    fix = f"label a node that fits (kubectl label node {name_of(node)} {_labelling(need)})"
    return _Lack("has other labels", "have other labels", fix)


def _matches(expression: Seen, labels: Mapping[str, str]) -> bool:
    key, values = str(expression.get("key")), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case operator:
            raise InvalidWorkspace(
                f"resource.labelSelector asks for {key!r} with operator {operator!r}",
                "there is no such operator",
                "use In, NotIn, Exists or DoesNotExist",
            )


def _deletion(_need: NodeNeed, node: Seen) -> _Lack | None:
    if not node["metadata"].get("deletionTimestamp"):
        return None
    return _Lack("is being deleted", "are being deleted", "add a node")


def _readiness(_need: NodeNeed, node: Seen) -> _Lack | None:
    if is_condition(node, "Ready"):
        return None
    fix = f"wait for it, or see what it lacks (kubectl describe node {name_of(node)})"
    return _Lack("is NotReady", "are NotReady", fix)


def _cordon(_need: NodeNeed, node: Seen) -> _Lack | None:
    if not (node.get("spec") or {}).get("unschedulable"):
        return None
    fix = f"let it take pods again (kubectl uncordon {name_of(node)})"
    return _Lack("is cordoned", "are cordoned", fix)


def _taints(need: NodeNeed, node: Seen) -> _Lack | None:
    tolerations = (*TOLERATIONS, *need.tolerations)
    for taint in (node.get("spec") or {}).get("taints") or ():
        is_soft = taint["effect"] == "PreferNoSchedule" or taint["key"] in _STATE_TAINTS
        if not is_soft and not _is_tolerated(taint, tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            said = f"taint {taint['key']}{value}:{taint['effect']}"
            remove = f"kubectl taint node {name_of(node)} {taint['key']}:{taint['effect']}-"
            return _Lack(f"has {said}", f"have {said}", f"remove the taint ({remove})")
    return None


def _is_tolerated(taint: Seen, tolerations: Iterable[Seen]) -> bool:
    return any(
        each.get("effect", taint["effect"]) in {taint["effect"], ""}
        and each.get("key", taint["key"]) in {taint["key"], ""}
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tolerations
    )


def _gpus(need: NodeNeed, node: Seen) -> _Lack | None:
    gpus = _node(node).gpus
    if gpus >= need.gpus:
        return None
    if gpus:
        said = f"only {gpus} GPU{'s' if gpus > 1 else ''}"
        return _Lack(f"has {said}", f"have {said}", f"add a node with {need.gpus} GPUs")
    if _GPU_SIGNS & set(_labels_of(node).items()):
        return _NO_PLUGIN
    fix = "add a node with an NVIDIA GPU, or choose a preset that runs on a CPU"
    return _Lack("has no GPU", "have no GPU", fix)


def _memory(need: NodeNeed, node: Seen) -> _Lack | None:
    gib = _memory_gib(node)
    if need.memory_gib is None or gib is None or gib >= need.memory_gib:
        return None
    kind = "GPU memory" if _node(node).gpus else "memory"
    fix = f"add a node with {need.memory_gib:.1f} GiB of {kind}, or choose a smaller preset"
    return _Lack(f"has too little {kind}", f"have too little {kind}", fix)


def _memory_gib(node: Seen) -> float | None:
    """What a model can use: the memory of the GPUs, else of the node; None = not known."""
    here = _node(node)
    if not here.gpus:
        return here.memory_gib
    mib = _labels_of(node).get(_GPU_MEMORY, "")
    return here.gpus * int(mib) / _MIB_PER_GIB if mib.isdecimal() else None


def _asked(need: NodeNeed) -> str:
    labels = _selector(need)
    parts = [f"{need.gpus} GPU{'s' if need.gpus > 1 else ''}"] if need.gpus else []
    if need.memory_gib is not None:
        parts.append(f"{need.memory_gib:.1f} GiB of memory")
    what = f" with {' and '.join(parts)}" if parts else ""
    number = f"{need.nodes} node{'s' if need.nodes > 1 else ''}"
    return f"the Workspace asks for {number}{what}{f', labelled {labels}' if labels else ''}"


def _found(total: int, fitting: int, unfit: Sequence[tuple[int, _Lack, Seen]]) -> str:
    if not total:
        return "the cluster has no nodes"
    lacks = Counter((lack.one, lack.many) for _, lack, _ in unfit)
    parts = [f"{number} {one if number == 1 else many}" for (one, many), number in lacks.items()]
    fits = [f"{fitting} fit{'s' if fitting == 1 else ''}"] if fitting else []
    return f"{total} node{'s' if total > 1 else ''}: {', '.join(fits + parts)}"


def _fix(unfit: Sequence[tuple[int, _Lack, Seen]]) -> str:
    """Return the fix for the node that came nearest."""
    return unfit[-1][1].fix if unfit else "add a node"


def _selector(need: NodeNeed) -> str:
    """The labels that are asked for, as `kubectl get nodes -l` takes them."""
    wanted = [f"{key}={value}" for key, value in sorted(need.labels.items())]
    return ",".join([*wanted, *map(expression_text, need.expressions)])


def _labelling(need: NodeNeed) -> str:
    """What makes a node match, as `kubectl label` takes it."""
    changes = [f"{key}={value}" for key, value in sorted(need.labels.items())]
    for each in need.expressions:
        by_operator = {"In": f"={(each.get('values') or [''])[0]}", "Exists": "=true"}
        changes.append(f"{each['key']}{by_operator.get(each['operator'], '-')}")
    return " ".join(changes)


def _preference(node: Seen) -> tuple[bool, int, str]:
    """GPU nodes first, of these the smallest: larger ones stay free for who needs them."""
    gpus = _node(node).gpus
    return (gpus == 0, gpus, name_of(node))


def _node(node: Seen) -> Node:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return Node(
        name=name_of(node),
        cores=int(parse_quantity(allocatable.get("cpu", 0))),
        memory_gib=parse_quantity(allocatable.get("memory", 0)) / _GIB,
        gpus=int(parse_quantity(allocatable.get(GPU, 0))),
    )


def _describe(node: Seen) -> str:
    here = _node(node)
    gpus = f"{here.gpus} GPU{'s' if here.gpus > 1 else ''}, " if here.gpus else ""
    return f"{here.name}: {gpus}{here.cores} cores, {here.memory_gib:.1f} GiB"


def _warnings(need: NodeNeed, nodes: Iterable[Seen]) -> list[str]:
    warnings = []
    for node in nodes:
        found = _labels_of(node).get(_INSTANCE_TYPE, "")
        if need.instance_type and found != need.instance_type:
            warnings.append(
                f"warning: {name_of(node)} is of instance type {found or '(none)'}, not "
                f"{need.instance_type}: of nodes that are there already the labels decide"
            )
        pressures = [kind for kind in _PRESSURES if is_condition(node, kind)]
        if pressures:
            warnings.append(f"warning: {name_of(node)} is under {', '.join(pressures)}")
    return warnings


def _labels_of(node: Seen) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}
