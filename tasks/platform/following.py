"""What a container of a cluster says, from its first line to its end, whatever breaks meanwhile.

A pod may not be there yet, be replaced by its Job, or have ended long ago: all three look the same
to who follows. A log connection that breaks goes on after the last line seen.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.contract.errors import (
    ContainerKilled,
    DeadlineExceeded,
    KaitoflowError,
    KubernetesRefused,
    KubernetesUnavailable,
)
from tasks.contract.gate_command import Heard
from tasks.contract.podlog import Event, parse_event, verdict_error
from tasks.platform.diagnosis import (
    Diagnosis,
    describe_waiting,
    diagnose_job,
    diagnose_pod,
    diagnosed_error,
)
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.pod_template import EVENT_NONCE_ANNOTATION
from tasks.platform.wire import Object, condition, container_status, has_failed, is_complete

logger = logging.getLogger(__name__)

# Events are not watched, and to ask for those of one pod makes the API server look at all that the
# namespace has: not before a pod has had the time to start, and ever less often while it waits.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 2.0, 30.0
# A log that does not answer is asked again at each change of the pod, and ever less often between.
_RECONNECT_S, _LONGEST_RECONNECT_S = 0.5, 10.0
_TAIL_LINES = 20
_ASKED_TO_STOP = 143
# Why a Job has failed where a pod's exit code says so (its podFailurePolicy).
_BY_EXIT_CODE = "PodFailurePolicy"
# By SIGKILL, as where memory ran out, and by SIGTERM.
_ENDED_BY_OTHERS = (137, _ASKED_TO_STOP)
# Of the informers: namespace, Workspace, generation, pod.
Key = tuple[str, str, str, str]


def other_pod(number: int) -> str:
    """What tells a pod of several from the first, which is the one that is followed."""
    return f" {number}" if number else ""


@dataclass(frozen=True, kw_only=True)
class Informers:
    """The objects that following looks at."""

    pods: Informer
    jobs: Informer

    async def wait(self, key: Key, *, timeout_s: float) -> None:
        """Return at the next change of the key's pods or Jobs, or when the time is over."""
        kinds = (self.pods, self.jobs)
        waits = [asyncio.create_task(kind.wait(key, timeout_s=timeout_s)) for kind in kinds]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()


@dataclass(frozen=True)
class _Instance:
    """One start of the container: the pod, the runtime's name for the start.

    nonce: with which its events are told; "" = of a pod that an older version made.
    """

    pod: str
    container_id: str
    nonce: str


class ContainerFollower:
    """One container of a Workspace's pod, in whichever pod it runs."""

    def __init__(
        self,
        api: KubeApi,
        informers: Informers,
        *,
        key: Key,
        container: str,
        make_again: Callable[[], Awaitable[None]],
        is_command: bool = False,
    ) -> None:
        """Follow the pod that `key` names to the informers.

        Args: make_again: has what the pod is made of be there, should somebody have deleted it.
        is_command: it is a command of a user's own, which says no events of ours.
        """
        self._api, self._informers, self._key = api, informers, key
        self._namespace, self._container = key[0], container
        self._make_again, self._is_command = make_again, is_command
        self._had_job = False
        self._tried: set[_Instance] = set()
        self._tail: list[str] = []
        self._error: KaitoflowError | None = None

    async def lines(self) -> AsyncGenerator[Event | str]:
        """Everything the container says, each time it is started, until its result.

        While it has not started: what its pod waits for, in `waiting` events; then `started`.
        Raises: the typed error of its verdict, or of what is wrong with its pod; ContainerKilled.
        """
        while True:
            has_waited = False
            async for waiting in self._until_started():
                has_waited = True
                yield waiting
            if has_waited:
                yield {"event": "started"}
            started = self._newest_start()
            assert started
            outcome: Event | None = None
            heard = Heard()
            async for said in self._read(started):
                yield said
                if isinstance(said, dict) and said["event"] in ("result", "verdict"):
                    outcome = said
                elif self._is_command:
                    heard.hear(str(said))
            if self._is_command:
                outcome = self._told_by_its_end(started, heard)
                if outcome:
                    yield outcome
            if outcome and outcome["event"] == "result":
                if not self._exit_code(started):
                    return
                outcome = None
            self._tried.add(started)
            self._error = await self._what_went_wrong(outcome)
            if not self._error.retryable:
                raise self._error
            yield f"{self._container} has to start again: {self._error}"

    def _told_by_its_end(self, started: _Instance, heard: Heard) -> Event | None:
        """The result of a command that has ended well; None = it was ended, or nobody knows how.

        Raises: GateCommandFailed.
        """
        code = self._exit_code(started)
        if code is None or code in _ENDED_BY_OTHERS:
            return None
        if code:
            raise heard.failure(f"with exit code {code}")
        return {"event": "result", "said": heard.scores}

    async def _until_started(self) -> AsyncGenerator[Event]:
        """What the pod waits for, each time that changes; ends once the container has started."""
        now, told, pause_s = asyncio.get_running_loop().time, "", _FIRST_LOOK_S
        began_s = now()
        while not self._newest_start():
            job, pod = self._job(), self._pod()
            is_early = now() - began_s < _FIRST_LOOK_S and not has_failed(job)
            # Asked before anything is made again: by then other pods may be there.
            by_deletion = job is not None and self._failed_by_deletion(job)
            if self._lacks_something(job, pod, is_early=is_early) or by_deletion:
                await self._make_again()
            diagnosis = None if is_early else await self._diagnose(job, pod)
            if job and has_failed(job) and not by_deletion:
                raise await self._of_another(job) or self._of_failed(job, diagnosis)
            if diagnosis and diagnosis.is_final:
                error = diagnosed_error(diagnosis)
                if not error.retryable:  # else the Job makes a new pod
                    raise error
            waits_for = diagnosis.message if diagnosis else describe_waiting(pod or {}, job)
            if waits_for != told:
                told = waits_for
                yield {"event": "waiting", "phase": waits_for}
            await self._informers.wait(self._key, timeout_s=pause_s)
            if not is_early:
                pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    def _lacks_something(self, job: Object | None, pod: Object | None, *, is_early: bool) -> bool:
        """Whether a Job that was there is gone, or a pod has its node and does not start there.

        Or whether a Job is done and its pod is gone, so that nobody can tell what it came to.
        """
        had_job, self._had_job = self._had_job, job is not None
        if pod is None and is_complete(job):
            return not is_early
        if job is None and (had_job or (pod is None and not is_early)):
            return True
        return pod is not None and not is_early and bool(pod["spec"].get("nodeName"))

    def _failed_by_deletion(self, job: Object) -> bool:
        """Whether the pod whose exit code a Job has failed with is one that somebody has deleted.

        That it was killed for it says nothing of the next one. Any other that a Job fails with is
        kept; those that it ends itself, because of that one, are not.
        """
        if condition(job, "Failed").get("reason") != _BY_EXIT_CODE:
            return False
        numbers = range(job["spec"].get("completions") or 1)
        keys = [(*self._key[:3], self._key[3] + other_pod(number)) for number in numbers]
        pods = [pod for key in keys for pod in self._informers.pods.select(key)]
        return all(pod["metadata"].get("deletionTimestamp") for pod in pods)

    def _of_failed(self, job: Object, diagnosis: Diagnosis | None) -> KaitoflowError:
        """Why the Job has failed: a pod's last words, unless its time was over."""
        of_job = diagnose_job(job)
        if of_job and of_job.reason == DeadlineExceeded.__name__:
            return diagnosed_error(of_job)
        return self._error or self._as_error(diagnosis)

    async def _of_another(self, job: Object) -> KaitoflowError | None:
        """What a pod has failed with beside the one that is followed, where a Job has several.

        None = no other has, or this one has a reason of its own: one that ended without a word may
        have been made to, with all others.
        """
        ended = diagnose_job(job)
        is_overdue = ended is not None and ended.reason == DeadlineExceeded.__name__
        if is_overdue or not (self._error is None or isinstance(self._error, ContainerKilled)):
            return None
        for number in range(1, job["spec"].get("completions") or 1):
            key = (*self._key[:3], self._key[3] + other_pod(number))
            for pod in reversed(self._informers.pods.select(key)):
                for container in _failed_containers(pod):
                    return await self._verdict_of(pod, container, number)
        return None

    async def _verdict_of(self, pod: Object, container: str, number: int) -> KaitoflowError:
        """Why the container has failed: its last words, or what is seen of its pod."""
        name, said = pod["metadata"]["name"], list[str]()
        try:
            log = self._api.log(self._namespace, name, container, since=None, follow=False)
            said = [text async for _, text in log]
        except (KubernetesUnavailable, KubernetesRefused) as unread:
            logger.info("log does not answer pod=%s: %s", name, unread)
        events = [event for text in said if (event := parse_event(text, nonce=_nonce_of(pod)))]
        verdicts = [event for event in events if event["event"] == "verdict"]
        tail = "\n".join(said[-_TAIL_LINES:])
        seen = None if verdicts else diagnose_pod(pod, log_tail=tail, now=datetime.now(UTC))
        error = _as_told(verdicts[-1]) if verdicts else self._as_error(seen)
        return type(error)(error.asked, f"pod {number}: {error.found}", error.fix)

    async def _read(self, started: _Instance) -> AsyncGenerator[Event | str]:
        """The log of one start, from its first line to its last, over any number of connections.

        Output and errors are two streams: a line may come after one that is younger.
        """
        newest, seen_this_second = "", set[tuple[str, str]]()
        self._tail = []
        pause_s, told = _RECONNECT_S, ""
        while True:
            was_over = self._is_over(started)
            try:
                async for moment, text in self._api.log(
                    self._namespace,
                    started.pod,
                    self._container,
                    since=f"{newest[:19]}Z" if newest else None,
                    follow=not was_over,
                ):
                    if (moment, text) in seen_this_second:
                        continue
                    if moment[:19] > newest[:19]:
                        seen_this_second.clear()
                    newest = max(newest, moment)
                    if moment[:19] == newest[:19]:
                        seen_this_second.add((moment, text))
                    self._tail = [*self._tail[-_TAIL_LINES:], text]
                    pause_s, told = _RECONNECT_S, ""
                    event = None if self._is_command else parse_event(text, nonce=started.nonce)
                    yield event or text
            except (KubernetesUnavailable, KubernetesRefused) as error:
                if str(error) != told:
                    told = str(error)
                    logger.info("log does not answer pod=%s: %s", started.pod, error)
                if was_over and isinstance(error, KubernetesRefused):
                    return  # the pod has gone, and its log with it
            else:
                if was_over:
                    return
            if self._is_over(started) == was_over:
                await self._informers.wait(self._key, timeout_s=pause_s)
                pause_s = min(2 * pause_s, _LONGEST_RECONNECT_S)

    async def _what_went_wrong(self, verdict: Event | None) -> KaitoflowError:
        if verdict:
            return _as_told(verdict)
        return self._as_error(await self._diagnose(None, self._pod()))

    def _as_error(self, diagnosis: Diagnosis | None) -> KaitoflowError:
        if diagnosis:
            return diagnosed_error(diagnosis)
        return ContainerKilled(
            f"{self._container} was asked to finish",
            "its container ended without a word",
            "see `kaitoflow logs`, then run again",
        )

    async def _diagnose(self, job: Object | None, pod: Object | None) -> Diagnosis | None:
        if pod is None:
            if job is None:
                return None
            return diagnose_job(job, await self._events(job), now=datetime.now(UTC))
        name = pod["spec"].get("nodeName")
        node = await self._api.get("Node", None, name) if name else None
        return diagnose_pod(
            pod,
            node=node,
            events=await self._events(pod),
            log_tail="\n".join(self._tail),
            now=datetime.now(UTC),
        )

    async def _events(self, about: Object) -> Sequence[Mapping[str, Any]]:
        uid = about["metadata"]["uid"]
        return await self._api.find("Event", self._namespace, fields={"involvedObject.uid": uid})

    def _job(self) -> Object | None:
        jobs = self._informers.jobs.select(self._key)
        return jobs[-1] if jobs else None

    def _pod(self) -> Object | None:
        pods = self._informers.pods.select(self._key)
        return pods[-1] if pods else None

    def _newest_start(self) -> _Instance | None:
        """The start to follow: of the newest pod, and not one that was followed already."""
        pod = self._pod()
        status = container_status(pod, self._container) if pod else None
        if not pod or not status or not status["state"].keys() & {"running", "terminated"}:
            return None
        name = pod["metadata"]["name"]
        started = _Instance(name, status.get("containerID", ""), _nonce_of(pod))
        return None if started in self._tried else started

    def _is_over(self, started: _Instance) -> bool:
        """Whether this start has ended, or its pod is no more."""
        status = self._status(started)
        return not status or "running" not in status["state"]

    def _exit_code(self, started: _Instance) -> int | None:
        """How this start ended; None when nobody knows any more."""
        status = self._status(started) or {"state": {}}
        code: int | None = status["state"].get("terminated", {}).get("exitCode")
        return code

    def _status(self, started: _Instance) -> Object | None:
        """The container's status, as long as it is of this start."""
        pods = self._informers.pods.select(self._key)
        pod = next((p for p in pods if p["metadata"]["name"] == started.pod), None)
        status = container_status(pod, self._container) if pod else None
        is_same = status is not None and status.get("containerID", "") == started.container_id
        return status if is_same else None


def _as_told(verdict: Event) -> KaitoflowError:
    error = verdict_error(verdict)
    error.retryable = bool(verdict.get("retryable", error.retryable))
    return error


def _nonce_of(pod: Object) -> str:
    """With which its events are told; "" = an older version made it."""
    meta = pod["metadata"]
    return str(meta["uid"]) if EVENT_NONCE_ANNOTATION in meta.get("annotations", {}) else ""


def _failed_containers(pod: Object) -> list[str]:
    """Those that ended badly; one that was asked to end with all others has not."""
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return [
        each["name"]
        for each in statuses
        if each["state"].get("terminated", {}).get("exitCode", 0) not in (0, _ASKED_TO_STOP)
    ]
