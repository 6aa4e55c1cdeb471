"""The logs of a Workspace's pods, one container after the other, in the order in which they run."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from flows.places.log_choice import LogChoice
from tasks.contract.errors import KubernetesRefused, KubernetesUnavailable
from tasks.contract.steps import INFERENCE, PODS
from tasks.contract.workspace import Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import (
    GENERATION_LABEL,
    POD_LABEL,
    pod_number,
    workspace_labels,
)
from tasks.platform.wire import Object

_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class _Start:
    """One start of a container that has a log.

    kind: the pod's, such as TUNING. previous: it is the start before the container's last one.
    """

    pod: str
    kind: str
    container: str
    container_id: str
    previous: bool = False

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.pod, self.container, self.container_id)


async def pod_log_lines(
    api: KubeApi,
    choice: LogChoice,
    *,
    follow: bool,
    previous: bool,
    says_more: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[tuple[str, str]]:
    """What the containers said, as (container, line).

    Args: says_more: whether following may bring more once all there is was read.
    Raises: StepUnknown, LogNotFound: no container that was asked for by name has started.
    """
    workspace = choice.workspace
    read: set[tuple[str, str, str]] = set()
    while True:
        goes_on = follow and await says_more()  # looked at first, so that the last lines come
        starts = await _starts(api, workspace, previous=previous)
        there = [start.container for start in starts]
        choice.expect_possible(there)
        chosen = [each for each in starts if choice.takes(each.container, pod=each.kind)]
        if choice.word and not chosen and not goes_on:
            raise choice.missing(there)
        for start in chosen:
            if start.identity in read:
                continue
            read.add(start.identity)
            async for line in _read(api, workspace, start, follow=follow):
                yield start.container, line
        if not goes_on:
            return
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _starts(api: KubeApi, workspace: Workspace, *, previous: bool) -> list[_Start]:
    """The containers that have a log, in the order in which they ran."""
    found = await api.find("Pod", workspace.metadata.namespace, labels=workspace_labels(workspace))
    # Of several that train together the first speaks for all.
    pods = [p for p in found if _is_meant(p["metadata"]["labels"], workspace) and not pod_number(p)]
    pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    starts: list[_Start] = []
    for name in PODS:
        of_one_kind = [pod for pod in pods if pod["metadata"]["labels"].get(POD_LABEL) == name]
        starts += _previous_starts(of_one_kind) if previous else _newest_starts(of_one_kind[-1:])
    return starts


def _is_meant(labels: Mapping[str, str], workspace: Workspace) -> bool:
    """Whether it is a pod of this generation, or a server, which an older one may have made."""
    is_current = labels.get(GENERATION_LABEL) == str(workspace.metadata.generation)
    return is_current or labels.get(POD_LABEL) == INFERENCE


def _newest_starts(pods: list[Object]) -> list[_Start]:
    """Every container of these pods that has started."""
    return [
        _Start(
            pod["metadata"]["name"],
            pod["metadata"]["labels"][POD_LABEL],
            status["name"],
            status.get("containerID", ""),
        )
        for pod in pods
        for status in _statuses(pod)
        if status["state"].keys() & {"running", "terminated"}
    ]


def _previous_starts(pods: list[Object]) -> list[_Start]:
    """What the newest pod's containers were before they started again, else the pod before it."""
    restarted = [
        _Start(
            pod["metadata"]["name"],
            pod["metadata"]["labels"][POD_LABEL],
            status["name"],
            status.get("lastState", {}).get("terminated", {}).get("containerID", ""),
            previous=True,
        )
        for pod in pods[-1:]
        for status in _statuses(pod)
        if status.get("restartCount", 0) > 0
    ]
    return restarted or _newest_starts(pods[-2:-1])


def _statuses(pod: Object) -> list[Object]:
    """What is known of the containers, in the order in which they run."""
    spec, status = pod["spec"], pod.get("status", {})
    order = [each["name"] for each in (*spec.get("initContainers", []), *spec["containers"])]
    known = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return sorted(known, key=lambda each: order.index(each["name"]))


async def _read(
    api: KubeApi, workspace: Workspace, start: _Start, *, follow: bool
) -> AsyncGenerator[str]:
    """The lines of one start; a connection that breaks goes on after the last line."""
    namespace, last = workspace.metadata.namespace, ""
    while True:
        says_more = follow and await _is_running(api, namespace, start)
        seen_until = last
        try:
            async for moment, text in api.log(
                namespace,
                start.pod,
                start.container,
                since=f"{seen_until[:19]}Z" if seen_until else None,
                follow=says_more,
                previous=start.previous,
            ):
                if moment > seen_until:
                    last = moment
                    yield text
        except KubernetesRefused:  # the pod has gone, and its log with it
            return
        except KubernetesUnavailable:
            if not follow:
                raise
        else:
            if not says_more:
                return
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _is_running(api: KubeApi, namespace: str, start: _Start) -> bool:
    pod = await api.get("Pod", namespace, start.pod)
    return any(
        status.get("containerID", "") == start.container_id and "running" in status["state"]
        for status in (_statuses(pod) if pod else [])
    )
