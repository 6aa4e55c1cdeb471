"""Before an uninstallation: no Workspace may be left that nobody lets go.

The watcher's finalizer keeps each until all that was made for it is gone; without watcher and
worker it would stay for ever, and its namespace with it.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tasks.contract.errors import KubernetesRefused, Refused
from tasks.contract.workspace import FINALIZER
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object, name_of

# Those that start a Job on the event of an uninstallation alone; kubectl applies what it is given.
_KNOW_EVENTS = ("helm", "argo")
_LOOK_AGAIN_S = 1.0
_SHOWN = 10
_NOT_FOUND = 404


class WorkspacesLeft(Refused):
    """Workspaces live, which an uninstallation would leave to nobody."""


def was_made_for_an_event(job: Mapping[str, Any]) -> bool:
    """Whether a Job was made by a program that knows Helm's events, by the fields' managers."""
    managers = [str(each.get("manager", "")) for each in job["metadata"].get("managedFields", [])]
    return any(name in manager.lower() for manager in managers for name in _KNOW_EVENTS)


async def living_workspaces(api: KubeApi, namespaces: Collection[str]) -> list[Object]:
    """The Workspaces that our finalizer keeps; of all namespaces, when none is named."""
    found = await _find(api, "Workspace", namespaces)
    return [each for each in found if FINALIZER in each["metadata"].get("finalizers", ())]


async def _find(api: KubeApi, kind: str, namespaces: Collection[str]) -> list[Object]:
    """Those of a kind that is ours; without its definition there are none."""
    found: list[Object] = []
    for namespace in namespaces or (None,):
        try:
            found += await api.find(kind, namespace)
        except KubernetesRefused as error:
            if error.status != _NOT_FOUND:
                raise
    return found


async def expect_none(api: KubeApi, namespaces: Collection[str]) -> None:
    """Return when no Workspace lives.

    Raises: WorkspacesLeft: some do; which, and what to do.
    """
    if living := await living_workspaces(api, namespaces):
        raise _left(
            living,
            "without them nobody lets go of",
            "delete them, or have it done: helm upgrade --reuse-values --set uninstall.drain=true; "
            "then uninstall again",
        )


async def drain(
    api: KubeApi, namespaces: Collection[str], *, limit_s: float, tell: Callable[[str], None]
) -> None:
    """Delete every Workspace that lives, and return when all are gone.

    InferenceSets first, of which the watcher would make others.

    Args: tell: hears how many are left, when that has changed.
    Raises: WorkspacesLeft: some are still there after `limit_s`.
    """
    deadline = asyncio.get_running_loop().time() + limit_s
    told = 0
    for each in await _find(api, "InferenceSet", namespaces):
        meta = each["metadata"]
        await api.delete("InferenceSet", meta["namespace"], name_of(each), uid=meta["uid"])
    while living := await living_workspaces(api, namespaces):
        for each in living:
            meta = each["metadata"]
            if not meta.get("deletionTimestamp"):
                await api.delete("Workspace", meta["namespace"], name_of(each), uid=meta["uid"])
        if len(living) != told:
            tell(f"waiting for Workspaces to go: {_names(living)}")
            told = len(living)
        if asyncio.get_running_loop().time() >= deadline:
            raise _left(
                living,
                f"watcher and worker have not let go within {limit_s:.0f} s of",
                "see their logs, or raise uninstall.timeoutSeconds; then uninstall again",
            )
        await asyncio.sleep(_LOOK_AGAIN_S)


def _left(living: Sequence[Object], why: str, fix: str) -> WorkspacesLeft:
    asked = "watcher and worker were to be uninstalled"
    return WorkspacesLeft(asked, f"{why} {len(living)} Workspace(s): {_names(living)}", fix)


def _names(living: Sequence[Object]) -> str:
    names = [f"{each['metadata']['namespace']}/{name_of(each)}" for each in living]
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])
