"""What a Workspace needs of a node, in this installation."""

from collections.abc import Mapping
from typing import Any

from tasks.contract.quantity import parse_quantity
from tasks.contract.resource_rules import is_reserved_label
from tasks.contract.workspace import Workspace
from tasks.estimate import serving_memory_gib
from tasks.nodes.provisioner import NodeNeed
from tasks.platform.tolerations import own_tolerations
from tasks.platform.wire import GPU
from tasks.presets import find_preset
from tasks.resources import gpus_asked, node_disk_gib
from tasks.settings import settings

BYPASS_ANNOTATION = "kaito.sh/bypass-resource-checks"


def need_of(
    workspace: Workspace,
    *,
    memory_gib: float | None = None,
    server_ends: bool = True,
    is_candidate: bool = False,
) -> NodeNeed:
    """The nodes that the Workspace's pods can run on.

    Args: memory_gib: the plan's estimate; None = a server's weights have to fit, at least.
    server_ends: False = something is tuned, and what an older generation serves goes on meanwhile.
    is_candidate: so does what this one serves.
    Raises: UnknownPreset, InvalidWorkspace.
    """
    resource, template = workspace.resource, _template(workspace)
    gpus, memory_gib = _size(workspace, template, memory_gib)
    preset = find_preset(workspace.preset.name) if workspace.preset else None
    selector = resource.label_selector
    own = {key: value for key, value in selector.match_labels.items() if not is_reserved_label(key)}
    return NodeNeed(
        nodes=resource.count,
        gpus=gpus,
        memory_gib=memory_gib,
        instance_type=resource.instance_type,
        labels=own | (template.get("nodeSelector") or {}),
        expressions=tuple(
            each
            for each in selector.match_expressions
            if not is_reserved_label(str(each.get("key")))
        ),
        tolerations=(
            *(template.get("tolerations") or ()),
            *own_tolerations(workspace),
            *settings().pod_tolerations,
        ),
        server_ends=server_ends,
        on_each_gpu=workspace.tuning is not None,
        is_candidate=is_candidate,
        disk_gib=node_disk_gib(workspace, preset),
    )


def _template(workspace: Workspace) -> Mapping[str, Any]:
    """The spec of the user's own pod template; empty for a preset."""
    template = workspace.inference.template if workspace.inference else None
    return (template or {}).get("spec") or {}


def _size(
    workspace: Workspace, template: Mapping[str, Any], memory_gib: float | None
) -> tuple[int, float | None]:
    """GPUs and memory."""
    if not workspace.preset:
        containers = template.get("containers") or ()
        limits = [(each.get("resources") or {}).get("limits") or {} for each in containers]
        return round(sum(parse_quantity(limit.get(GPU, 0)) for limit in limits)), None
    preset = find_preset(workspace.preset.name)
    if memory_gib is None and preset.size_gib is not None and workspace.inference:
        memory_gib = serving_memory_gib(
            weights_gib=preset.size_gib, kv_bytes_per_token=0, context_tokens=0
        )
    gpus = gpus_asked(workspace) or (0 if preset.runs_on_cpu else 1)
    return gpus, (None if is_bypassed(workspace) else memory_gib)


def gpus_needed(workspace: Workspace) -> int:
    """How many GPUs each node has to have, at least.

    Raises: UnknownPreset.
    """
    return _size(workspace, _template(workspace), None)[0]


def is_bypassed(workspace: Workspace) -> bool:
    """Whether the user takes it upon them that the machines will do."""
    return BYPASS_ANNOTATION in workspace.metadata.annotations
