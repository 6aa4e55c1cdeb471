"""Which of a cluster's nodes fit a Workspace, and what the others lack. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.contract.artifacts import Node
from tasks.contract.errors import InvalidWorkspace, NodeNotReady
from tasks.contract.quantity import parse_quantity
from tasks.nodes.held_gpus import GpuHolder
from tasks.nodes.provisioner import NodeNeed
from tasks.platform.diagnosis.facts import expression_text
from tasks.platform.leaving import sign_of_leaving
from tasks.platform.tolerations import TOLERATIONS
from tasks.platform.wire import GPU, Seen, is_condition, name_of
from tasks.skus import catalogue

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


# How NVIDIA's device plugin counts slices of GPUs: nvidia.com/mig-3g.40gb.
_MIG = "nvidia.com/mig-"
PLUGIN_FIX = (
    "install NVIDIA's device plugin (the chart's devicePlugin.enabled=true), and see that its pod "
    "on the node runs"
)
_NO_PLUGIN = _Lack(
    "has a GPU that Kubernetes does not count",
    "have GPUs that Kubernetes does not count",
    PLUGIN_FIX,
)


@dataclass(frozen=True)
class _Candidate:
    """A node of the cluster, and who holds GPUs of it."""

    seen: Seen
    holders: tuple[GpuHolder, ...]

    @property
    def name(self) -> str:
        return name_of(self.seen)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.seen["metadata"].get("labels") or {}

    @property
    def spec(self) -> Seen:
        return self.seen.get("spec") or {}

    @property
    def gpus(self) -> int:
        """Those that Kubernetes counts, free or not."""
        return gpus_of(self.seen)

    @property
    def free_gpus(self) -> int:
        return max(self.gpus - sum(each.gpus for each in self.holders), 0)

    @property
    def node(self) -> Node:
        """The node as pods may use it: with the GPUs that are free."""
        return Node(
            name=self.name,
            cores=int(parse_quantity(self._allocatable.get("cpu", 0))),
            memory_gib=parse_quantity(self._allocatable.get("memory", 0)) / _GIB,
            gpus=self.free_gpus,
            gpu_memory_gib=self.gpu_memory_gib,
        )

    @property
    def _allocatable(self) -> Seen:
        return (self.seen.get("status") or {}).get("allocatable") or {}

    def memory_gib(self, *, gpus: int) -> float | None:
        """What a model can use: the memory of so many GPUs, else the node's; None = not known."""
        if not gpus:
            return self.node.memory_gib
        return None if self.gpu_memory_gib is None else gpus * self.gpu_memory_gib

    @property
    def gpu_memory_gib(self) -> float | None:
        """The memory of one GPU; None = not known."""
        mib = self.labels.get(_GPU_MEMORY, "")
        if mib.isdecimal():
            return int(mib) / _MIB_PER_GIB
        sku = catalogue().get(self.labels.get(_INSTANCE_TYPE, "").lower())
        return sku.usable_gib if sku and sku.has_cuda else None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The verdict on a cluster's nodes.

    nodes: those that fit, best first, as many as are needed or as there are.
    is_enough: whether they are as many as are needed.
    lack: why it is not enough, as the error that a run ends with.
    lacks_plugin: whether the node that came nearest only waits for NVIDIA's device plugin.
    in_use: names of those that would fit, if others did not hold their GPUs.
    """

    nodes: tuple[Node, ...]
    is_enough: bool
    detail: str
    lack: NodeNotReady
    lacks_plugin: bool
    in_use: frozenset[str] = frozenset()

    @property
    def message(self) -> str:
        """What was asked, what was found and what to do, in one line."""
        return str(self.lack)


def select_nodes(
    need: NodeNeed,
    nodes: Sequence[Seen],
    holders: Iterable[GpuHolder] = (),
    *,
    preferred: Collection[str] = (),
) -> Selection:
    """The nodes that pods can run on, and in a sentence what the others lack.

    Args: holders: of GPUs, which are not free for the pods. preferred: names of nodes.
    Raises: InvalidWorkspace: a matchExpression with an operator that does not exist.
    """
    held = defaultdict[str, list[GpuHolder]](list)
    for holder in holders:
        held[holder.node].append(holder)
    candidates = [_Candidate(node, tuple(held[name_of(node)])) for node in nodes]
    lacks = [(_first_lack(need, each), each) for each in candidates]
    fitting = sorted(
        (each for lack, each in lacks if lack is None),
        key=lambda each: (each.name not in preferred, *_preference(each)),
    )
    unfit = sorted(((*lack, each) for lack, each in lacks if lack), key=lambda each: each[0])
    chosen = fitting[: need.nodes]
    return Selection(
        nodes=tuple(each.node for each in chosen),
        is_enough=len(chosen) == need.nodes,
        detail="; ".join([", ".join(map(_describe, chosen)), *_warnings(need, chosen)]),
        lack=NodeNotReady(_asked(need), _found(len(nodes), len(fitting), unfit), _fix(unfit)),
        lacks_plugin=bool(unfit) and unfit[-1][1] is _NO_PLUGIN,
        in_use=frozenset(each.name for nearness, _, each in unfit if _CHECKS[nearness] is _use),
    )


def hides_gpus(node: Seen) -> bool:
    """Whether a node has GPUs, as its labels say, of which Kubernetes counts none."""
    labels = (node["metadata"].get("labels") or {}).items()
    return not gpus_of(node) and bool(_GPU_SIGNS & set(labels))


def gpus_of(node: Seen) -> int:
    """How many GPUs of a node Kubernetes gives to pods."""
    return int(parse_quantity((node["status"].get("allocatable") or {}).get(GPU, 0)))


def _slices(node: Seen) -> list[str]:
    """The kinds of MIG slices that a node has in place of whole GPUs."""
    amounts = (node["status"].get("allocatable") or {}).items()
    return sorted(name for name, count in amounts if name.startswith(_MIG) and str(count) != "0")


def _first_lack(need: NodeNeed, node: _Candidate) -> tuple[int, _Lack] | None:
    """What a node lacks, with how near it came to being used; None = it fits."""
    for nearness, check in enumerate(_CHECKS):
        if lack := check(need, node):
            return nearness, lack
    return None


def _labels(need: NodeNeed, node: _Candidate) -> _Lack | None:
    labels = node.labels
    is_match = all(labels.get(key) == value for key, value in need.labels.items())
    if is_match and all(_matches(each, labels) for each in need.expressions):
        return None
    fix = f"label a node that fits (kubectl label node {node.name} {_labelling(need)})"
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


def _deletion(_need: NodeNeed, node: _Candidate) -> _Lack | None:
    if not node.seen["metadata"].get("deletionTimestamp"):
        return None
    return _Lack("is being deleted", "are being deleted", "add a node")


def _leaving(_need: NodeNeed, node: _Candidate) -> _Lack | None:
    if not (sign := sign_of_leaving(node.seen)):
        return None
    said = f"taken away soon ({sign})"
    return _Lack(f"is {said}", f"are {said}", "add a node")


def _readiness(_need: NodeNeed, node: _Candidate) -> _Lack | None:
    if is_condition(node.seen, "Ready"):
        return None
    fix = f"wait for it, or see what it lacks (kubectl describe node {node.name})"
    return _Lack("is NotReady", "are NotReady", fix)


def _cordon(_need: NodeNeed, node: _Candidate) -> _Lack | None:
    if not node.spec.get("unschedulable"):
        return None
    fix = f"let it take pods again (kubectl uncordon {node.name})"
    return _Lack("is cordoned", "are cordoned", fix)


def _taints(need: NodeNeed, node: _Candidate) -> _Lack | None:
    tolerations = (*TOLERATIONS, *need.tolerations)
    for taint in node.spec.get("taints") or ():
        is_soft = taint["effect"] == "PreferNoSchedule" or taint["key"] in _STATE_TAINTS
        if not is_soft and not _is_tolerated(taint, tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            said = f"taint {taint['key']}{value}:{taint['effect']}"
            remove = f"kubectl taint node {node.name} {taint['key']}:{taint['effect']}-"
            return _Lack(f"has {said}", f"have {said}", f"remove the taint ({remove})")
    return None


def _is_tolerated(taint: Seen, tolerations: Iterable[Seen]) -> bool:
    return any(
        each.get("effect", taint["effect"]) in {taint["effect"], ""}
        and each.get("key", taint["key"]) in {taint["key"], ""}
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tolerations
    )


def _gpus(need: NodeNeed, node: _Candidate) -> _Lack | None:
    if node.gpus >= need.gpus:
        return None
    if node.gpus:
        said = f"only {_counted(node.gpus)}"
        return _Lack(f"has {said}", f"have {said}", f"add a node with {need.gpus} GPUs")
    if slices := _slices(node.seen):
        said = f"only slices of GPUs ({', '.join(slices)}), and pods get whole ones"
        fix = f"turn MIG off on {node.name}, or add a node whose GPUs are whole"
        return _Lack(f"has {said}", f"have {said}", fix)
    if hides_gpus(node.seen):
        return _NO_PLUGIN
    fix = "add a node with an NVIDIA GPU, or choose a preset that runs on a CPU"
    return _Lack("has no GPU", "have no GPU", fix)


def _memory(need: NodeNeed, node: _Candidate) -> _Lack | None:
    if _has_room(need, node, gpus=node.gpus):
        return None
    kind = "GPU memory" if node.gpus else "memory"
    fix = f"add a node with {need.memory_gib:.1f} GiB of {kind}, or choose a smaller preset"
    return _Lack(f"has too little {kind}", f"have too little {kind}", fix)


def _has_room(need: NodeNeed, node: _Candidate, *, gpus: int) -> bool:
    gib = node.memory_gib(gpus=min(gpus, 1) if need.on_each_gpu else gpus)
    return need.memory_gib is None or gib is None or gib >= need.memory_gib


def _use(need: NodeNeed, node: _Candidate) -> _Lack | None:
    """What would do, were it free; cores and memory of pods are the scheduler's to count."""
    is_free = node.free_gpus >= need.gpus
    if is_free and _has_room(need, node, gpus=node.free_gpus):
        return None
    by = ", ".join(f"{each.namespace}/{each.pod}" for each in node.holders)
    fix = f"wait until GPUs of {node.name} are free (in use by {by}), or add a node"
    return _Lack("has its GPUs in use", "have their GPUs in use", fix)


_CHECKS = (_labels, _deletion, _leaving, _taints, _cordon, _readiness, _gpus, _memory, _use)


def _asked(need: NodeNeed) -> str:
    labels = _selector(need)
    parts = [_counted(need.gpus)] if need.gpus else []
    if need.memory_gib is not None:
        parts.append(f"{need.memory_gib:.1f} GiB of memory")
    what = f" with {' and '.join(parts)}" if parts else ""
    number = f"{need.nodes} node{'s' if need.nodes > 1 else ''}"
    return f"the Workspace asks for {number}{what}{f', labelled {labels}' if labels else ''}"


def _found(total: int, fitting: int, unfit: Sequence[tuple[int, _Lack, _Candidate]]) -> str:
    if not total:
        return "the cluster has no nodes"
    lacks = Counter((lack.one, lack.many) for _, lack, _ in unfit)
    parts = [f"{number} {one if number == 1 else many}" for (one, many), number in lacks.items()]
    fits = [f"{fitting} fit{'s' if fitting == 1 else ''}"] if fitting else []
    return f"{total} node{'s' if total > 1 else ''}: {', '.join(fits + parts)}"


def _fix(unfit: Sequence[tuple[int, _Lack, _Candidate]]) -> str:
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


def _preference(node: _Candidate) -> tuple[bool, int, str]:
    """GPU nodes first, of these the smallest: larger ones stay free for who needs them."""
    return (node.free_gpus == 0, node.free_gpus, node.name)


def _describe(node: _Candidate) -> str:
    here = node.node
    gpus = f"{_counted(node.gpus)}, " if node.gpus else ""
    if node.holders:
        gpus = f"{node.free_gpus} of {_counted(node.gpus)} free, "
    return f"{here.name}: {gpus}{here.cores} cores, {here.memory_gib:.1f} GiB"


def _counted(gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus > 1 else ''}"


def _warnings(need: NodeNeed, nodes: Iterable[_Candidate]) -> list[str]:
    warnings = []
    for node in nodes:
        found = node.labels.get(_INSTANCE_TYPE, "")
        if need.instance_type and found != need.instance_type:
            warnings.append(
                f"warning: {node.name} is of instance type {found or '(none)'}, not "
                f"{need.instance_type}: of nodes that are there already the labels decide"
            )
        pressures = [kind for kind in _PRESSURES if is_condition(node.seen, kind)]
        if pressures:
            warnings.append(f"warning: {node.name} is under {', '.join(pressures)}")
    return warnings
