"""Rules of a Workspace's `resource`: which labels select nodes, and what a share of a GPU is.

The same as in the CRD (deployments/crds), for a machine without an API server.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_MIG_PROFILE = re.compile(r"[1-7]g[.][1-9][0-9]{0,2}gb")
_RESERVED = re.compile(
    r"kaito[.]sh/(workspace|ragengine)(namespace)?|"
    r"karpenter[.]kaito[.]sh/(workspace-name|workspace-namespace|inferenceset|inferenceset-namespace)"
)

_EXPRESSION = {"key", "operator", "values"}
_TAKES_VALUES: Mapping[Any, bool] = {
    "In": True,
    "NotIn": True,
    "Exists": False,
    "DoesNotExist": False,
}


def is_reserved_label(key: str) -> bool:
    """Whether KAITO keeps a label key for itself; such a key selects no node."""
    return _RESERVED.fullmatch(key) is not None


def check_expression(expression: Mapping[str, Any]) -> None:
    """Raise ValueError unless an expression of a labelSelector says which labels will do."""
    operator, values = expression.get("operator"), expression.get("values") or []
    is_readable = (
        set(expression) <= _EXPRESSION
        and isinstance(expression.get("key"), str)
        and isinstance(values, list)
        and all(isinstance(value, str) for value in values)
    )
    if not is_readable or not expression["key"] or _TAKES_VALUES.get(operator) != bool(values):
        raise ValueError(
            f"{dict(expression)} found; a label is chosen by operator In or NotIn with values, or "
            "by Exists or DoesNotExist without; write it so, or use matchLabels"
        )


def fitting_labels(
    match_labels: Mapping[str, str], match_expressions: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Labels that a new node is given, so that the selector chooses it; none that is reserved."""
    wanted = {each["key"]: "true" for each in match_expressions if each["operator"] == "Exists"}
    wanted |= {e["key"]: e["values"][0] for e in match_expressions if e["operator"] == "In"}
    wanted |= match_labels
    return {key: value for key, value in wanted.items() if not is_reserved_label(key)}


def check_selects(labels: Sequence[str]) -> None:
    """Raise ValueError if labels are given and none of them can select a node."""
    if labels and all(is_reserved_label(key) for key in labels):
        raise ValueError(
            "only labels that are reserved for KAITO are given, and those select nothing; add a "
            "label of your own, such as apps=NAME"
        )


def check_partition(mode: str, *, profile: str | None, count: int | None) -> None:
    """Raise ValueError unless a share of a node's GPUs is whole: a slice of one, or some of them.

    Args: mode: mig (needs the profile of a slice) or accelerator (needs a count of GPUs).
    """
    if mode == "mig":
        if not _MIG_PROFILE.fullmatch(profile or ""):
            raise ValueError(
                f"profile {profile!r} found; mode mig takes one slice of a GPU; set profile, such "
                "as 3g.40gb"
            )
        if count is not None:
            raise ValueError("count is set; mode mig takes one slice of a GPU; remove count")
        return
    if count is None:
        raise ValueError("no count; mode accelerator takes whole GPUs; set count to how many")
    if profile is not None:
        raise ValueError("profile is set; mode accelerator takes whole GPUs; remove profile")
