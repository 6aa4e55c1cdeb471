"""A node that plays its kubelet: pods bound to it go through their containers as they are told.

Everything else is real: the scheduler binds the pods, the Job controller counts them, and the API
server fetches container logs from here, over TLS, as from any kubelet.
"""

import asyncio
import json
import logging
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from kubernetes.aio import client, config

from tasks.contract.errors import KaitoflowError
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import POD_NUMBER_LABEL

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2
# A TLS connection is closed in several turns of the loop; none tells when the last is over.
_TLS_GOODBYE_S = 0.5
# As nodes with GPUs have: pods that are not ours stay away, however small they are.
_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
_LAST_WORDS = ("result", "verdict")
Object = dict[str, Any]


@dataclass(frozen=True)
class Script:
    """What a container does: the events it emits, how long it takes, how it exits.

    A result or verdict comes at the end.
    stays: it is a server: ready once its lines are said, and it goes on.
    prints: lines that are no events, as programs of others print, at the end as well.
    """

    events: tuple[Object, ...] = ()
    seconds: float = 0.0
    exit_code: int = 0
    stays: bool = False
    prints: tuple[str, ...] = ()


DATASET = {
    "event": "result",
    "digest": "sha256:d",
    "rows": 8,
    "truncated_rows": 0,
    "duplicate_rows": 0,
    "tokens": {"total": 80, "min": 8, "median": 10, "p95": 12, "max": 12},
    "max_length": 1024,
    "bad_rows": {"total": 0, "listed": []},
    "files": [],
    "train_sha256": "t",
}
TUNED = {
    "event": "result",
    "adapter": "/mnt/results/adapter",
    "final_loss": 1.5,
    "steps": 4,
    "history": [],
    "tokens": 80,
    "rows": {"trained": 8, "held_out": 0, "cut": 0, "dropped": 0},
    "held_out": None,
    "tokens_per_s": 20.0,
    "peak_memory_gib": 1.0,
    "seconds": 4.0,
}
DIGEST = "sha256:" + "a" * 64
IMAGE = {"event": "result", "reference": "r/a:1", "digest": DIGEST, "bytes": 9}
WEIGHTS = {"event": "result", "bytes": 1024, "source": "hub"}
PUSHED = IMAGE | {"pushed": True, "layer_digest": DIGEST, "uploaded_bytes": 9, "annotations": {}}
PULLED = IMAGE | {"source": "registry", "changed": True}
SCRIPTS = {
    "fetch-weights": Script((WEIGHTS | {"weights_dir": "/mnt/w", "revision": "main"},)),
    "fetch-dataset": Script((DATASET,)),
    "tune": Script(({"event": "progress", "step": 4, "steps": 4, "loss": 1.5}, TUNED)),
    "push-image": Script((PUSHED,)),
    "serve": Script(({"event": "progress", "phase": "ready"},), stays=True),
}


@dataclass
class SimulatedNode:
    """What the node has done; what is public may be changed while it runs.

    Containers are named by their namespace and name.
    """

    name: str
    scripts: dict[str, Script] = field(default_factory=lambda: dict(SCRIPTS))
    """By the container's name; with a number behind it, of that pod of several alone."""
    held: set[tuple[str, str]] = field(default_factory=set)
    """Containers that do not end, or are not ready, for as long as they are in here."""
    ending_s: float = 0.0
    """How long the containers of a pod that is deleted go on."""
    pods: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Names of the pods in which each container was started, once for each time."""
    most_at_once: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """How many of them, in different pods, ran at the same time."""
    alive: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    logs: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def started(self) -> Mapping[tuple[str, str], int]:
        """How often each container was started."""
        return times_started(self.pods)

    @contextmanager
    def counted(self, pod: Object, name: str) -> Iterator[None]:
        """Count a container as one that runs."""
        key = pod["metadata"]["namespace"], name
        self.pods[key].append(pod["metadata"]["name"])
        self.alive[key] += 1
        self.most_at_once[key] = max(self.most_at_once[key], self.alive[key])
        try:
            yield
        finally:
            self.alive[key] -= 1


def times_started(pods: Mapping[tuple[str, str], Sequence[str]]) -> Counter[tuple[str, str]]:
    """How often each container was started, by the pods in which it was."""
    seen = tuple(pods.items())  # nodes go on in threads of their own
    return Counter({container: len(names) for container, names in seen})


@contextmanager
def simulated_node(
    kubeconfig: Path,
    name: str,
    *,
    labels: dict[str, str],
    certificate: Path,
    key: Path,
    taints: Sequence[dict[str, str]] = (),
    gpus: int = 0,
) -> Iterator[SimulatedNode]:
    """A Ready node for as long as the context lasts; it lives in a thread of its own.

    Args: taints: beside the one that nodes with GPUs have. gpus: that it says it has.
    """
    node = SimulatedNode(name)
    loop = asyncio.new_event_loop()
    kubelet = _Kubelet(node, kubeconfig, labels=labels, taints=[_TAINT, *taints], gpus=gpus)
    thread = threading.Thread(target=loop.run_forever, name=f"kubelet {name}")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(kubelet.start(certificate, key), loop).result(30)
        yield node
    finally:
        asyncio.run_coroutine_threadsafe(kubelet.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Kubelet:
    def __init__(
        self,
        node: SimulatedNode,
        kubeconfig: Path,
        *,
        labels: dict[str, str],
        taints: Sequence[dict[str, str]],
        gpus: int,
    ) -> None:
        self._node, self._kubeconfig = node, kubeconfig
        self._labels, self._taints, self._gpus = labels, taints, gpus
        self._pods: dict[str, asyncio.Task[None]] = {}
        self._goodbyes: dict[str, asyncio.Task[None]] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._ended: set[tuple[str, str]] = set()
        self._news: dict[str, asyncio.Event] = {}

    async def start(self, certificate: Path, key: Path) -> None:
        settings = client.Configuration()
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            str(self._kubeconfig), client_configuration=settings
        )
        self._api = KubeApi(client.ApiClient(settings))
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._log)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        await self._register(self._runner.addresses[0][1])
        self._loop = _started(self._work())

    async def stop(self) -> None:
        tasks = (self._loop, *self._pods.values(), *self._goodbyes.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for uid in self._uids.values():
            self._end(uid)  # lets go who follows a log
        await self._api.delete("Node", None, self._node.name)
        await self._runner.cleanup()
        await self._api.close()
        await asyncio.sleep(_TLS_GOODBYE_S)

    async def _register(self, port: int) -> None:
        meta = {"name": self._node.name, "labels": self._labels}
        await self._api.apply({"apiVersion": "v1", "kind": "Node", "metadata": meta})
        room = {"cpu": "512", "memory": "4Ti", "pods": "500", "ephemeral-storage": "16Ti"}
        if self._gpus:
            room["nvidia.com/gpu"] = str(self._gpus)
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        path = ("Node", None, self._node.name)
        await self._api.merge(*path, {"status": status}, subresource="status")
        # The node controller taints a node until it has seen it; nobody waits for that here.
        await self._api.merge(*path, {"spec": {"taints": [*self._taints]}})

    async def _work(self) -> None:
        """Pods are listed once, then watched: to look again and again would take a core."""
        mine = {"spec.nodeName": self._node.name}
        while True:
            with suppress(KaitoflowError):  # an API server that is away, a version too old
                pods, version = await self._api.find_with_version(
                    "Pod", None, labels=None, fields=mine
                )
                for uid in set(self._pods) - {pod["metadata"]["uid"] for pod in pods}:
                    self._end(uid)
                for pod in pods:
                    await self._take("MODIFIED", pod)
                async for kind, pod in self._api.watch(
                    "Pod", None, labels=None, version=version, fields=mine
                ):
                    await self._take(kind, pod)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _take(self, kind: str, pod: Object) -> None:
        if pod.get("spec", {}).get("nodeName") != self._node.name:
            return
        meta = pod["metadata"]
        if kind == "DELETED":
            self._end(meta["uid"])
        elif meta.get("deletionTimestamp"):
            if meta["uid"] not in self._goodbyes:
                self._goodbyes[meta["uid"]] = _started(self._say_goodbye(pod))
        elif meta["uid"] not in self._pods:
            self._uids[meta["namespace"], meta["name"]] = meta["uid"]
            self._pods[meta["uid"]] = _started(self._run(pod))

    def _end(self, uid: str) -> None:
        if task := self._pods.pop(uid, None):
            task.cancel()
        self._ended |= {(uid, name) for pod, name in self._node.logs if pod == uid}
        self._tell_followers(uid)

    def _tell_followers(self, uid: str) -> None:
        self._news.pop(uid, asyncio.Event()).set()

    async def _say_goodbye(self, pod: Object) -> None:
        meta = pod["metadata"]
        await asyncio.sleep(self._node.ending_s)
        self._end(meta["uid"])
        await self._tell_end(pod)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await _until_answered(
            lambda: self._api.delete("Pod", meta["namespace"], meta["name"], body=body)
        )

    async def _tell_end(self, pod: Object) -> None:
        """Say that a pod's containers have ended as ours do when they are asked to (143).

        Before that a Job's controller keeps the pod.
        """
        path = ("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        status = pod.get("status", {})
        if status.get("phase") in ("Succeeded", "Failed"):
            return
        asked = {"exitCode": 143, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
        patch: Object = {"phase": "Failed"}
        for field_name in ("initContainerStatuses", "containerStatuses"):
            patch[field_name] = [
                each | {"ready": False, "state": {"terminated": asked}}
                if "running" in each["state"]
                else each
                for each in status.get(field_name, ())
            ]
        await _until_answered(
            lambda: self._api.merge(*path, {"status": patch}, subresource="status")
        )

    async def _run(self, pod: Object) -> None:
        spec = pod["spec"]
        first = [each["name"] for each in spec.get("initContainers", [])]
        main = [each["name"] for each in spec["containers"]]
        states: dict[str, Object] = {
            name: {"waiting": {"reason": "PodInitializing"}} for name in (*first, *main)
        }
        for name in (*first, *main):
            states[name] = {"running": {"startedAt": _now()}}
            with self._node.counted(pod, name):
                await self._tell(pod, first, main, states, "Running" if name in main else "Pending")
                script = await self._play(pod, name)
                if script.stays:
                    await self._tell(pod, first, main, states, "Running", ready=True)
                    await asyncio.Event().wait()
            code = script.exit_code
            reason = "Completed" if code == 0 else "Error"
            ended = {"exitCode": code, "reason": reason, "startedAt": _now(), "finishedAt": _now()}
            states[name] = {"terminated": ended | {"containerID": f"sim://{name}"}}
            if code:
                await self._tell(pod, first, main, states, "Failed")
                return
        await self._tell(pod, first, main, states, "Succeeded")

    async def _play(self, pod: Object, name: str) -> Script:
        """What the container does, done up to its end."""
        uid, namespace = pod["metadata"]["uid"], pod["metadata"]["namespace"]
        number = (pod["metadata"].get("labels") or {}).get(POD_NUMBER_LABEL, "0")
        script = self._node.scripts.get(name, Script((PULLED,)))
        if number != "0":  # of pods that train together, any but the first stays until it is ended
            beside = Script(stays=True) if name == "tune" else script
            script = self._node.scripts.get(f"{name} {number}", beside)
        self._say(uid, name, (e for e in script.events if e["event"] not in _LAST_WORDS))
        await asyncio.sleep(script.seconds)
        while (namespace, name) in self._node.held:
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._print(uid, name, script.prints)
        self._say(uid, name, (e for e in script.events if e["event"] in _LAST_WORDS))
        return script

    def _say(self, uid: str, name: str, events: Iterable[Object]) -> None:
        self._print(uid, name, [json.dumps(each | {"nonce": uid}) for each in events])

    def _print(self, uid: str, name: str, said: Iterable[str]) -> None:
        self._node.logs[uid, name] += [f"{_precise()} {each}" for each in said]
        self._tell_followers(uid)

    async def _tell(
        self,
        pod: Object,
        first: list[str],
        main: list[str],
        states: dict[str, Object],
        phase: str,
        *,
        ready: bool = False,
    ) -> None:
        meta = pod["metadata"]

        def status(name: str) -> Object:
            return {
                "name": name,
                "image": "simulated",
                "imageID": "",
                "ready": ready if name in main else "terminated" in states[name],
                "restartCount": 0,
                "containerID": "" if "waiting" in states[name] else f"sim://{meta['uid']}/{name}",
                "state": states[name],
            }

        patch = {
            "phase": phase,
            "startTime": _now(),
            "initContainerStatuses": [status(name) for name in first],
            "containerStatuses": [status(name) for name in main],
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": _now()},
                {"type": "ContainersReady", "status": str(ready), "lastTransitionTime": _now()},
                {"type": "Initialized", "status": "True", "lastTransitionTime": _now()},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()},
            ],
        }
        path = ("Pod", meta["namespace"], meta["name"])
        await _until_answered(
            lambda: self._api.merge(*path, {"status": patch}, subresource="status")
        )
        self._ended |= {(meta["uid"], name) for name in states if "terminated" in states[name]}
        self._tell_followers(meta["uid"])

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """As the kubelet: the lines so far and, with `follow`, those to come until the end."""
        found, name = request.match_info, request.match_info["container"]
        uid = self._uids.get((found["namespace"], found["pod"]))
        if uid is None:
            raise web.HTTPNotFound
        lines = self._node.logs[uid, name]
        answer = web.StreamResponse()
        await answer.prepare(request)
        follow = request.query.get("follow") == "true"
        sent = 0
        while True:
            news = self._news.setdefault(uid, asyncio.Event())
            over = (uid, name) in self._ended
            for line in lines[sent:]:
                with suppress(ConnectionError):  # nobody is there any more
                    await answer.write(line.encode() + b"\n")
            sent = len(lines)
            if not follow or over:
                return answer
            await news.wait()


def _started(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task whose failure is told at once, since nobody waits for it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_failure)
    return task


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the simulated kubelet failed", exc_info=error)


async def _until_answered(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask again for as long as the API server is away, as a kubelet does."""
    while True:
        with suppress(KaitoflowError):
            await ask()
            return
        await asyncio.sleep(_LOOK_AGAIN_S)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _precise() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
