"""How a run on a cluster, or a whole Workspace, is ended: asked for, then waited for."""

import asyncio
from collections.abc import Callable

from flows.cluster.watch import LOOK_AGAIN_S, NoWatcher, is_under_way
from tasks.contract.errors import DeadlineExceeded
from tasks.contract.status import status_of
from tasks.contract.workspace import STOPPED_ANNOTATION, Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import workspace_labels
from tasks.platform.wire import Object, name_of
from tasks.settings import settings

_ENDED_WITHIN_S = 600.0
_ACTIVE = {"Pending", "Running"}


async def stop(api: KubeApi, workspace: Workspace, tell: Callable[[str], None]) -> list[str]:
    """The names of what was stopped.

    Raises: NoWatcher: nobody acts on it. DeadlineExceeded: a pod does not end.
    """
    stopped = await _running(api, workspace)
    await mark_stopped(api, workspace, stopped=True)
    waiting = Waiting(workspace, "was to be stopped", tell)
    left = stopped
    while left:
        waiting.go_on(left, is_acted_on=left != stopped or await is_ending(api, workspace))
        await asyncio.sleep(LOOK_AGAIN_S)
        left = await _running(api, workspace)
    return stopped


async def mark_stopped(api: KubeApi, workspace: Workspace, *, stopped: bool) -> None:
    """Tell the watcher that the generation is not to be run, or that it may be run again."""
    meta = workspace.metadata
    annotations = {STOPPED_ANNOTATION: str(meta.generation) if stopped else None}
    patch = {"metadata": {"uid": meta.uid, "annotations": annotations}}
    await api.merge("Workspace", meta.namespace, meta.name, patch)


async def delete(api: KubeApi, workspace: Workspace, tell: Callable[[str], None]) -> None:
    """Return when the Workspace and its pods are gone.

    Raises: NoWatcher: nobody takes its finalizer away. DeadlineExceeded: a pod does not end.
    """
    meta = workspace.metadata
    await api.delete("Workspace", meta.namespace, meta.name)
    waiting = Waiting(workspace, "was deleted", tell)
    first: list[str] | None = None
    while True:
        found = await api.get("Workspace", meta.namespace, meta.name)
        is_there = found is not None and found["metadata"]["uid"] == meta.uid
        pods = [name_of(pod) for pod in await _pods(api, workspace)]
        if not is_there and not pods:
            return
        left = pods or [str(f) for f in (found or {}).get("metadata", {}).get("finalizers", [])]
        first = left if first is None else first
        is_acted_on = not is_there or left != first or await is_ending(api, workspace)
        waiting.go_on(left, is_acted_on=is_acted_on)
        await asyncio.sleep(LOOK_AGAIN_S)


class Waiting:
    """Tells what is waited for when that changes, and knows when to give up."""

    def __init__(self, workspace: Workspace, asked: str, tell: Callable[[str], None]) -> None:
        """Tell what was `asked` of the Workspace in messages."""
        self._workspace, self._asked, self._tell = workspace, asked, tell
        self._began_s = asyncio.get_running_loop().time()
        self._told: list[str] = []

    def go_on(self, left: list[str], *, is_acted_on: bool) -> None:
        """Nothing, while waiting is worth it.

        Raises: NoWatcher, DeadlineExceeded.
        """
        if left != self._told:
            self._told = left
            self._tell(f"waiting for {', '.join(left)}")
        waited_s = asyncio.get_running_loop().time() - self._began_s
        asked = f"workspace {self._workspace} {self._asked}"
        patience_s = settings().watcher_timeout_s
        if waited_s > patience_s and not is_acted_on:
            raise NoWatcher(
                f"{asked}",
                f"nothing has acted on it within {patience_s:.0f} s ({', '.join(left)}), so "
                "no watcher seems to run",
                "start it, then it is done",
            )
        if waited_s > _ENDED_WITHIN_S:
            raise DeadlineExceeded(
                f"{asked}",
                f"{', '.join(left)} is still there after {_ENDED_WITHIN_S:.0f} s",
                "see `kubectl describe` of it",
            )


async def _running(api: KubeApi, workspace: Workspace) -> list[str]:
    """What has not ended: the run, and pods."""
    meta = workspace.metadata
    status = status_of(await api.get("Workspace", meta.namespace, meta.name))
    run = ["run"] if is_under_way(workspace, status) else []
    pods = await _pods(api, workspace)
    return run + [name_of(p) for p in pods if p.get("status", {}).get("phase") in _ACTIVE]


async def is_ending(api: KubeApi, workspace: Workspace) -> bool:
    """Whether a pod of the Workspace was asked to end."""
    pods = await _pods(api, workspace)
    return any(pod["metadata"].get("deletionTimestamp") for pod in pods)


async def _pods(api: KubeApi, workspace: Workspace) -> list[Object]:
    namespace = workspace.metadata.namespace
    return await api.find("Pod", namespace, labels=workspace_labels(workspace))
