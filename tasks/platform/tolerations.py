"""Which taints of nodes a Workspace's pods tolerate. Pure."""

import re
from typing import Any

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Workspace

TOLERATIONS_ANNOTATION = "kaitoflow.io/tolerations"
# GPU nodes are tainted so that nothing else lands on them; spot ones so that it is wanted.
TOLERATIONS = [
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": "NoSchedule",
    },
]
_TAINT = re.compile(
    r"(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)(=(?P<value>[-A-Za-z0-9_.]*))?"
    r"(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)


def own_tolerations(workspace: Workspace) -> list[dict[str, Any]]:
    """Those that the Workspace asks for by annotation, in the form of `kubectl taint`.

    Without a value every value of the key is tolerated, without an effect every effect.
    Raises: InvalidWorkspace: a part that is no taint.
    """
    text = workspace.metadata.annotations.get(TOLERATIONS_ANNOTATION, "")
    return [_toleration(part.strip()) for part in text.split(",") if part.strip()]


def _toleration(text: str) -> dict[str, Any]:
    taint = _TAINT.fullmatch(text)
    if not taint:
        raise InvalidWorkspace(
            f"annotation {TOLERATIONS_ANNOTATION} asks for {text!r}",
            "that is no taint",
            'write it as kubectl does, such as "team=ml:NoSchedule", several with commas '
            "between them",
        )
    given = {name: found for name, found in taint.groupdict().items() if found is not None}
    return given | {"operator": "Equal" if "value" in given else "Exists"}
